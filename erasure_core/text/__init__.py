"""Words and sentences: prompt templates, synonyms, vocabularies, and the candidates of a search."""
