"""XenServer and XCP-ng: xe commands, the API, and XVA."""
