"""The two places where changes to a guest are carried out: a tree of the host, and an appliance."""
