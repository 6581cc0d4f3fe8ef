"""What this machine has, and which implementations a run takes of it."""
