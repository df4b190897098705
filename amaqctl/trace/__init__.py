"""Traces: files of messages. Read and append them, replay them, and report what came out."""
