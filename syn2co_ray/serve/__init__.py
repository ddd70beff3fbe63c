"""A backbone behind HTTP on Ray Serve: what runs inside its replicas, and how it is put up and drained.

embedder.py     bytes of an image -> features, as `kind: evaluate` makes them; knows no Ray
requests.py     what a request may be: size, type, token; every refusal has a status and a text
figures.py      our metrics, and the page that Prometheus reads
application.py  the replicas: batches of images, neighbours, the four addresses
lifetime.py     from a spec to a listening server, and back without losing a request
"""
