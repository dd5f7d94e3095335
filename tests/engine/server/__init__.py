"""Ollama's API over llama-server: the engine that the tests run instead of the upstream one. Standard library only."""
