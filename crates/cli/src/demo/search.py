"""A search engine over numpy's own documentation, and what the demonstration
forks while it runs.

It takes long to get ready: Python starts, numpy is imported, the index is built.
From then on it answers questions on a vsock port, and in between it never rests:
it works out, step by step, which functions are the most central ones.

A request is one line, `state` or `ask QUESTION`; the answer is a line `name value`
each, and the end of the connection.
"""

import time

began = time.perf_counter()

import os
import select
import socket

PORT = 5000
PAUSE_S = 0.02

# Fresh at every start: two processes that tell the same one are the same process.
token = os.urandom(8).hex()

print("importing numpy", flush=True)
import numpy

imported_s = time.perf_counter() - began


def words(text):
    """The words of a text, plurals as singulars."""
    letters = "".join(c if c.isalpha() else " " for c in text.lower())
    return [w[:-1] if w.endswith("s") and len(w) > 3 else w for w in letters.split()]


def documentation():
    """The functions of numpy: their names, and what they say they do."""
    for module in (numpy, numpy.linalg, numpy.fft, numpy.random):
        for name, function in sorted(vars(module).items()):
            doc = getattr(function, "__doc__", None)
            if name[0] == "_" or not callable(function) or isinstance(function, type) or not doc:
                continue
            paragraphs = [part.strip() for part in doc.split("\n\n")]
            if paragraphs[0].startswith(f"{name}("):
                del paragraphs[0]  # How to call it, not what it does.
            if paragraphs:
                summary = " ".join(paragraphs[0].split())
                # The name tells most, then the summary, then what follows.
                tail = " ".join(paragraphs[1:3])[:200]
                text = [(3, name.replace("_", " ")), (2, summary), (1, tail)]
                yield f"{module.__name__}.{name}", summary, text


def index():
    """One row of weighted word counts per function, each of length 1."""
    names, summaries, texts = zip(*documentation())
    columns = {}
    for text in texts:
        for _, part in text:
            for word in words(part):
                columns.setdefault(word, len(columns))
    matrix = numpy.zeros((len(names), len(columns)), dtype=numpy.float32)
    for row, text in enumerate(texts):
        for weight, part in text:
            for word in words(part):
                matrix[row, columns[word]] += weight
    # Words that are everywhere say nothing.
    rarity = numpy.log(len(names) / numpy.count_nonzero(matrix, axis=0)).astype(numpy.float32)
    matrix *= rarity
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", matrix, matrix))
    matrix /= lengths[:, None] + 1e-9
    return names, summaries, columns, rarity, matrix


def ask(question):
    """The function whose documentation is nearest to the question."""
    query = numpy.zeros(matrix.shape[1], dtype=numpy.float32)
    for word in words(question):
        if word in columns:
            query[columns[word]] += 1
    best = int((matrix @ (query * rarity)).argmax())
    return names[best], summaries[best]


print("indexing its documentation", flush=True)
names, summaries, columns, rarity, matrix = index()
centrality = numpy.ones(len(names), dtype=numpy.float32)
steps = 0
asked = 0


def answer(request):
    """Answers one request."""
    global asked
    begun = time.perf_counter()
    verb, _, question = request.partition(" ")
    found = ("", "")
    if verb == "ask":
        asked += 1
        found = ask(question)
    told = {
        "machine": os.uname().nodename,
        "pid": os.getpid(),
        "token": token,
        "imported_us": int(imported_s * 1e6),
        "ready_us": int(ready_s * 1e6),
        "steps": steps,
        "asked": asked,
        "answer": found[0],
        "summary": found[1],
        "answered_us": int((time.perf_counter() - begun) * 1e6),
    }
    return "".join(f"{name} {value}\n" for name, value in told.items())


def serve(listener):
    """Answers the clients that are waiting."""
    connection, _ = listener.accept()
    with connection:
        request = connection.makefile("r").readline().strip()
        connection.sendall(answer(request).encode())


listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, PORT))
listener.listen()
ready_s = time.perf_counter() - began
print("ready", flush=True)

while True:
    centrality = matrix @ (matrix.T @ centrality)
    centrality /= numpy.linalg.norm(centrality)
    steps += 1
    if select.select([listener], [], [], PAUSE_S)[0]:
        try:
            serve(listener)
        except OSError:
            pass  # The client is gone.
