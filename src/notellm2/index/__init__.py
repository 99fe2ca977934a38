"""The FAISS index: build, validate, search. Never imports torch. The only room that imports faiss."""
