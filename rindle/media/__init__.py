"""Reading and building media: images in warm child processes, audio and video through ffmpeg."""
