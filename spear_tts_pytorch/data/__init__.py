"""Audio and text as the trainers take them: files, corpora, stored pairs, batches."""
