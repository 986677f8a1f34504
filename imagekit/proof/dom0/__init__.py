"""What runs in the lab's dom0. It imports nothing of imagekit but its neighbours."""
