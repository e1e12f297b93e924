"""The picture book: a small checkpoint of a few hundred real things in three drawing styles, for claims about quality.

The shapes next door are quick and every figure on them sits on its ceiling. Here the pictures are emoji art, the names are
learned with the pictures, and near neighbours (cat, tiger, lion) are as near as pictures and captions make them.
"""
