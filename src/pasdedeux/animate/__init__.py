"""The task: a character, a performance, and the video they make."""
