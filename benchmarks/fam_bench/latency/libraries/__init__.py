"""What computes, behind the runtime's interface or as a program: a file per library."""
