"""Files and where they are: folders and buckets, written whole or not at all."""
