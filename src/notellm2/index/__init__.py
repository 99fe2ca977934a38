"""The FAISS index: build, validate, publish, search. Never imports torch. The only room that imports faiss."""
