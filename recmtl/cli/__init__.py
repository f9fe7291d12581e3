"""The command line: one file per command, the option parser and the console."""
