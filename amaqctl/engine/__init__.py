"""Stages, links and the loop. Everything here runs unchanged whichever stages a process holds."""
