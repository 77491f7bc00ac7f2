"""Archives: very many pictures, answered once each, into Parquet; by processes of one machine or of a cluster.

``lists`` says which pictures, ``plan`` writes down what is to be done, ``parts`` looks at what is done, ``columns``
says what a row is, ``shard`` answers a shard's pictures into one file, ``worker`` is the process that does so, ``crew``
keeps several of them alive and ``cluster`` spreads shards over Ray's nodes.
A shard is done when its file is there, whole: nothing else is remembered.
"""
