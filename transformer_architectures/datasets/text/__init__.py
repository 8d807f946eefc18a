"""Readers of text: parallel, labelled, tagged, documents; and how it becomes rows of tokens."""
