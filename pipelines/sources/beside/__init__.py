"""Files beside a video: chat and transcripts in the shapes that common tools write, with every entry accounted for."""
