"""Many pictures at once: which ones, their records, on one machine or many."""
