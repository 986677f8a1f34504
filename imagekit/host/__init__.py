"""The machine we run on: commands, tools, privileges, KVM, mirrors."""
