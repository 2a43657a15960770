"""Classifiers of your own: labelled sequences to a new bundle, and what a bundle is worth."""
