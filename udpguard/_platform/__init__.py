"""What one operating system can do with a UDP socket, behind one interface."""
