"""Finetuning on questions with a subnetwork removed: does the knowledge come back?"""
