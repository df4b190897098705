"""The built-in quantizers, one file each, found through entry points like anybody else's."""
