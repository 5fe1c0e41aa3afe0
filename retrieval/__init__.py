"""The archive: batched embedding, the table, FAISS, search."""
