"""An isolated engine answers the same, can do nothing else, and whatever a model does to it is one line."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import TINY_IO, replace_file, smear, tiny, tiny_bundle, tiny_openvino

from edge_runtime import installation, machine
from edge_runtime.commands import opening
from edge_runtime.device import Device
from edge_runtime.engines import Engine, open_engine
from edge_runtime.errors import BundleError, EngineError, UsageError
from edge_runtime.isolation import Layer, child, graph
from edge_runtime.isolation.graph import Limits, layers_here, load_isolated

ROOT = Path(__file__).resolve().parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can lock a process in")
NAMES = ("logits", "class_map")
PIXELS = smear(32, 5)[None]


def altered(place: int, value: int) -> bytes:
    """Return the tiny model with one byte changed."""
    model = bytearray(tiny("int8"))
    model[place] = value
    return bytes(model)


def onnx_with(kind: str) -> bytes:
    """Return the tiny ONNX model with a part that never ends ("Loop") or takes 40 GB ("ConstantOfShape")."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import TensorProto, helper

    model = onnx.load_from_string(tiny("onnx"))
    graph = model.graph
    node = next(node for node in graph.node if "logits" in node.output)
    node.output[list(node.output).index("logits")] = "honest_logits"
    scalar = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph.initializer.append(scalar)
    if kind == "Loop":
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["x"], ["y"])],
            "body",
            [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [1])],
            [value("still", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, [1])],
        )
        graph.initializer.append(helper.make_tensor("often", TensorProto.INT64, [], [2**62]))
        graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
        extra = [helper.make_node("Loop", ["often", "true", "zero"], ["extra"], body=body)]
    else:
        graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [1], [10**10]))
        filled = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
        extra = [
            helper.make_node("ConstantOfShape", ["shape"], ["much"], value=filled),
            helper.make_node("ReduceMax", ["much"], ["extra"], keepdims=0),
        ]
    graph.node.extend([*extra, helper.make_node("Add", ["honest_logits", "extra"], ["logits"])])
    encoded: bytes = model.SerializeToString()
    return encoded


def child_of(engine: Engine) -> subprocess.Popen[bytes]:
    """Return the process of an isolated engine."""
    process: subprocess.Popen[bytes] = engine._graph.run.__self__._child._process  # type: ignore[attr-defined]
    return process


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Say whether a process ends in time, and leaves no zombie."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("litert", lambda: tiny("int8")),
        ("onnxruntime", lambda: tiny("onnx")),
        ("openvino", tiny_openvino),
    ],
)
def test_the_answers_are_the_same(name: str, model: Callable[[], Any]) -> None:
    content = model()
    alone, isolated = (open_engine(name, content, TINY_IO, 2, isolate) for isolate in (False, True))
    assert alone.layers is None and isolated.layers is not None
    for seed in range(3):
        for mine, its in zip(alone.run(smear(32, seed)), isolated.run(smear(32, seed)), strict=True):
            assert np.array_equal(mine, its) and mine.dtype == its.dtype


@LINUX
def test_every_layer_that_this_machine_has_is_told() -> None:
    layers = {layer.name: layer for layer in layers_here()}
    assert list(layers) == ["parent", "privileges", "limits", "Landlock", "seccomp"]
    assert all(layers[name].held for name in ("parent", "privileges", "limits")), "every Linux has these"
    assert all(layer.held or layer.detail for layer in layers.values()), "what does not hold has a reason"


PROBE = """
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
secret, target, layers = sys.argv[2], sys.argv[3], sys.argv[4].split(",")
from edge_runtime.isolation import lockdown
library = ctypes.CDLL(None, use_errno=True)
def raw(number, *arguments):
    if library.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
wanted = {
    "read a file": lambda: open(secret).read(),
    "list a folder": lambda: os.listdir(os.path.dirname(secret)),
    "write a file": lambda: os.open(target, os.O_WRONLY | os.O_CREAT),
    "empty a file": lambda: os.open(secret, os.O_RDONLY | os.O_TRUNC),
    "remove a file": lambda: os.unlink(secret),
    "rename a file": lambda: os.rename(secret, target),
    "make a folder": lambda: os.mkdir(target),
    "make a link": lambda: os.symlink("/", target),
    "change rights": lambda: os.chmod(secret, 0o777),
    "make a socket": lambda: socket.socket(),
    "make a local socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": lambda: socket.socketpair(),
    "start a program": lambda: subprocess.run(["/bin/true"]),
    "become a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "stop its parent": lambda: os.kill(os.getppid(), signal.SIGSTOP),
    "raise its limits": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
    "map memory of others": lambda: raw(310 if os.uname().machine == "x86_64" else 270, os.getppid(), 0, 0, 0, 0, 0),
    "trace its parent": lambda: raw(101 if os.uname().machine == "x86_64" else 117, 16, os.getppid(), 0, 0),
    "be left alone": lambda: lockdown._prctl(1, 0),
    "push keys": lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"),
    "make a user namespace": lambda: raw(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "take a lot of memory": lambda: __import__("mmap").mmap(-1, 2**31),
}
import fcntl, threading
held = [lockdown._no_new_privileges()]
apply = {
    "limits": lambda: lockdown._limits(2**30),
    "Landlock": lambda: lockdown._landlock([os.path.dirname(os.__file__)]),
    "seccomp": lockdown._seccomp,
}
for layer in layers:
    apply[layer]()
done = {}
for name, attempt in wanted.items():
    try:
        attempt()
        done[name] = "done"
    except (OSError, ValueError) as error:
        done[name] = errno.errorcode.get(getattr(error, "errno", 0), str(error))
thread = threading.Thread(target=lambda: done.update(thread="done"))  # what an engine does need
thread.start(); thread.join()
print(json.dumps(done))
"""

FILES = {
    "write a file",
    "empty a file",
    "remove a file",
    "rename a file",
    "make a folder",
    "make a link",
}
READING = {"read a file", "list a folder"}


def probe(tmp_path: Path, *layers: str) -> dict[str, str]:
    """Try, from a process locked in by some of the layers, what a hostile engine would; return what came of it."""
    held = {layer.name for layer in layers_here() if layer.held}
    if missing := set(layers) - held:
        pytest.skip(f"this kernel has no {' and no '.join(sorted(missing))}")
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("secret", encoding="utf-8")
    command = [sys.executable, "-c", PROBE, str(ROOT), str(secret), str(target), ",".join(layers)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert secret.read_text(encoding="utf-8") == "secret" and not target.exists()
    found: dict[str, str] = json.loads(told.stdout)
    assert found.pop("thread") == "done"
    return found


@LINUX
def test_all_layers_leave_nothing_to_do(tmp_path: Path) -> None:
    found = probe(tmp_path, "limits", "Landlock", "seccomp")
    assert len(found) == 23 and not {name: what for name, what in found.items() if what == "done"}


@LINUX
def test_system_calls_alone_leave_reading(tmp_path: Path) -> None:
    found = probe(tmp_path, "seccomp")
    assert {name for name, what in found.items() if what == "done"} == READING | {"take a lot of memory"}


@LINUX
def test_landlock_alone_refuses_files(tmp_path: Path) -> None:
    command_free = {name for name, what in probe(tmp_path, "Landlock").items() if what == "done"}
    assert not command_free & (READING | FILES | {"start a program", "become a program"})


@LINUX
@pytest.mark.parametrize("place", [16, 2960, 4596])
def test_a_model_that_kills_the_engine_is_one_line(place: int) -> None:
    model = altered(place, {16: 0, 2960: 1, 4596: 128}[place])
    with pytest.raises(EngineError) as caught:
        open_engine("litert", model, TINY_IO, 1, isolate=True)
    told = str(caught.value)
    if machine.package_version("ai_edge_litert") == "2.3.0" and os.uname().machine == "x86_64":
        how = "SIGABRT; it may have run out of memory" if place == 4596 else "SIGSEGV"
        assert told == f"model.tflite: the engine died on this model ({how})"
    else:  # another version may find out what is wrong with it
        assert told.startswith("model.tflite: ")


def test_the_command_line_survives_a_model_that_kills_the_engine(
    run: Callable[..., tuple[int, str, list[str]]], bundle_folder: Path, picture_file: Path
) -> None:
    replace_file(bundle_folder, "model.tflite", altered(16, 0))
    for command in (["classify", picture_file, "--model", bundle_folder], ["verify", bundle_folder]):
        status, out, err = run(*command, "--isolate", "--engine", "litert")
        assert status == 1 and not out and len(err) == 1 and err[0].startswith("error: ")
        assert "died on this model" in err[0] or "cannot load it" in err[0]


def test_a_picture_that_kills_the_engine_costs_that_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    real = child.Child.ask

    def struck(self: child.Child, stated: dict[str, Any], *rest: Any) -> Any:
        if "shape" in stated:  # a picture
            self._process.send_signal(signal.SIGSEGV)
        return real(self, stated, *rest)

    engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    whole = engine.run(PIXELS)[0]
    for _ in range(4):  # more often than it may die in a row
        process = child_of(engine)
        with monkeypatch.context() as deadly:
            deadly.setattr(child.Child, "ask", struck)
            with pytest.raises(EngineError, match=r"^model.tflite: the engine died on this model \(SIGSEGV\)$"):
                engine.run(PIXELS)
        assert gone(process.pid)
        assert np.array_equal(engine.run(PIXELS)[0], whole), "a new one answers the next picture"


def test_an_engine_that_dies_while_nobody_asks_costs_no_picture() -> None:
    engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    whole = engine.run(PIXELS)[0]
    for _ in range(4):
        process = child_of(engine)
        process.kill()
        assert gone(process.pid)
        until = time.monotonic() + 10
        while process.returncode is None and time.monotonic() < until:
            time.sleep(0.01)
        assert np.array_equal(engine.run(PIXELS)[0], whole) and child_of(engine) is not process


@LINUX
def test_a_model_that_wants_all_memory_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"model\.onnx: (the isolated engine (failed|cannot)|the engine died)"):
        open_engine("onnxruntime", onnx_with("ConstantOfShape"), TINY_IO, 1, isolate=True).run(PIXELS)


def test_a_model_that_never_ends_is_an_error() -> None:
    files = {"model.onnx": onnx_with("Loop")}
    graph, _ = load_isolated("onnxruntime", files, 1, TINY_IO, "model.onnx", Limits(run_s=0.5, deaths=1))
    child = graph.run.__self__._child._process  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=r"^model.onnx: the engine gave no answer in 0\.5 s \(a model that never"):
        graph.run("pixels", NAMES, PIXELS)
    assert gone(child.pid)
    with pytest.raises(EngineError, match="not started again"):
        graph.run("pixels", NAMES, PIXELS)


@LINUX
def test_a_forked_process_starts_one_of_its_own() -> None:
    engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    pid, whole = child_of(engine).pid, engine.run(PIXELS)[0]
    fork = os.fork()
    if fork == 0:  # whatever happens here must not return into pytest
        try:
            same = np.array_equal(engine.run(PIXELS)[0], whole)
            os._exit(42 if same and child_of(engine).pid != pid else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 42
    assert child_of(engine).pid == pid and np.array_equal(engine.run(PIXELS)[0], whole), "the first one lives on"


def test_what_was_started_when_an_interrupt_came_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(child.SimpleQueue):  # type: ignore[misc]
        def get(self) -> Any:
            got = super().get()
            started.append(got)
            if len(started) == 1:
                self.put(got)
                raise KeyboardInterrupt
            return got

    monkeypatch.setattr(child, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    assert gone(started[0].pid)


@LINUX
def test_many_engines_leave_nothing_behind() -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sum(
            thread.name == "isolated-engine" for thread in threading.enumerate()
        )

    processes: list[int] = []
    layers_here()
    before = held()
    for _ in range(10):
        engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
        processes.append(child_of(engine).pid)
        del engine
    assert all(gone(pid) for pid in processes)
    until = time.monotonic() + 10
    while not all(now <= then for now, then in zip(held(), before, strict=True)) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(now <= then for now, then in zip(held(), before, strict=True))


def test_two_engines_and_many_threads_get_their_own_answers() -> None:
    engines = [open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True) for _ in range(2)]
    alone = open_engine("litert", tiny("int8"), TINY_IO, 1)
    pictures = [smear(32, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: engines[n % 2].run(pictures[n % 8])[1], range(80)))
    assert all(np.array_equal(found[n], alone.run(pictures[n % 8])[1]) for n in range(80))


def test_dropping_an_engine_ends_its_process() -> None:
    engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    pid = child_of(engine).pid
    del engine
    gc.collect()
    assert gone(pid)


@LINUX
@pytest.mark.parametrize("busy", [False, True])
def test_a_parent_that_is_killed_leaves_no_orphan(tmp_path: Path, busy: bool) -> None:
    (tmp_path / "model").write_bytes(onnx_with("Loop"))
    program = (
        "import sys, time, numpy as np; sys.path[:0] = sys.argv[2:]; from bundle_maker import TINY_IO;"
        "from edge_runtime.engines import open_engine;"
        "engine = open_engine('onnxruntime', open(sys.argv[1], 'rb').read(), TINY_IO, 1, isolate=True);"
        "print(engine._graph.run.__self__._child._process.pid, flush=True);"
        f"engine.run(np.zeros((32, 32, 3), np.uint8)) if {busy} else time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model"), str(ROOT), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
        parent.wait(10)
        until = time.monotonic() + 10
        while _runs(child) and time.monotonic() < until:
            time.sleep(0.02)
        assert not _runs(child)


def _runs(pid: int) -> bool:
    """Say whether a process of another family runs; its zombie is for whoever adopted it."""
    state = machine.read_text(Path(f"/proc/{pid}/stat"))
    return state is not None and state.rsplit(")", 1)[1].split()[0] not in "ZX"


LIAR = """
import json, os, struct, sys, time
def hear():
    (size,) = struct.unpack("<I", os.read(0, 4))
    stated = json.loads(os.read(0, size)); left = sum(stated["sizes"])
    while left: left -= len(os.read(0, left))
def say(stated, body=b""):
    text = stated if isinstance(stated, bytes) else json.dumps(stated).encode()
    os.write(1, struct.pack("<I", len(text)) + text + body)
tensor = lambda name, shape, kind: dict(name=name, shape=shape, dtype=kind, scale=None, zero_point=0)
graph = dict(inputs=[tensor("pixels", [1, 32, 32, 3], "uint8")], sizes=[],
             outputs=[tensor("logits", [1, 5], "float32"), tensor("class_map", [1, 4, 4, 5], "float32")])
hear(); say(dict(layers=[], sizes=[])); hear(); say(graph); hear()
logits, class_map = dict(dtype="float32", shape=[1, 5]), dict(dtype="float32", shape=[1, 4, 4, 5])
"""
TRUTH = "say(dict(outputs=[logits, class_map], sizes=[20, 320]), bytes(340))"
LIES = {
    "os.write(1, b'\\xff' * 4)": "nonsense",
    "say(b'no JSON')": "nonsense",
    "say(b'[]')": "nonsense",
    "say(dict(outputs=[]))": "nonsense",
    "say(dict(outputs=[logits, class_map], sizes=[20, 10**12]))": "nonsense",
    "say(dict(outputs=[logits, class_map], sizes=[20, -1]))": "nonsense",
    "say(dict(outputs=[logits, class_map], sizes=[20, 320, 320]))": "nonsense",
    "say(dict(outputs=[logits, class_map], sizes=[16, 320]), bytes(336))": "nonsense",
    "say(dict(outputs=[dict(dtype='object', shape=[20]), class_map], sizes=[20, 320]), bytes(340))": "nonsense",
    "say(dict(outputs=[dict(dtype='float32', shape=[-1, 5]), class_map], sizes=[20, 320]), bytes(340))": "nonsense",
    "say(dict(outputs=[class_map, logits], sizes=[20, 320]), bytes(340))": "nonsense",
    "say(dict(outputs=[dict(dtype='int8', shape=[20]), class_map], sizes=[20, 320]), bytes(340))": "not what the model",
    "say(dict(outputs=[logits, class_map], sizes=[20, 320]), b'\\xff' * 340)": "NaN or infinite",
    "say(dict(error='\\x1b[2J' + 'x' * 60000, sizes=[]))": r"failed on a picture: got .{300}\.\.\.$",
    "say(dict(outputs=[logits, class_map], sizes=[20, 320]), bytes(339)); os._exit(3)": r"died .*\(exit status 3\)",
    "logits['shape'] = [1] * 99 + [5]; say(dict(outputs=[logits, class_map], sizes=[20, 320]), bytes(340))": "nonsense",
    "say(b'{\"sizes\": [], \"error\": ' + b'9' * 9000 + b'}')": "nonsense",
    "os._exit(0)": r"died .*\(exit status 0\)",
    "os.kill(os.getpid(), 40)": r"died .*\(signal 40\)",
    "os.close(1); time.sleep(60)": "hung up",
}


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Engine]]:
    """Return a function that opens an engine whose child answers a picture as a piece of program says."""

    def engine(answer: str) -> Engine:
        monkeypatch.setattr(child, "_PROGRAM", LIAR + answer)
        return open_engine("litert", tiny("float32"), TINY_IO, 1, isolate=True)

    yield engine


def test_a_child_that_tells_the_truth_is_believed(liar: Callable[[str], Engine]) -> None:
    logits, class_map = liar(TRUTH).run(PIXELS)
    assert not logits.any() and class_map.shape == (4, 4, 5)


def test_an_answer_may_come_byte_by_byte_but_must_be_there_in_time(
    liar: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly = "write = os.write; os.write = lambda to, what: [write(to, what[i:i+1]) for i in range(len(what))];"
    assert not liar(slowly + TRUTH).run(PIXELS)[0].any()
    for_ever = "text = b'{' + b' ' * 60000; os.write(1, struct.pack('<I', len(text)));"
    engine = liar(for_ever + "[(os.write(1, text[i:i+1]), time.sleep(0.01)) for i in range(60000)]")
    monkeypatch.setattr(engine._graph.run.__self__, "_limits", Limits(run_s=0.3))  # type: ignore[attr-defined]
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"no answer in 0\.3 s"):
        engine.run(PIXELS)
    assert time.monotonic() - start < 5 and gone(child_of(engine).pid)


def test_an_answer_that_breaks_off_anywhere_is_a_death(liar: Callable[[str], Engine]) -> None:
    whole = "said = bytearray(); write = os.write; os.write = lambda to, what: said.extend(what);" + TRUTH
    for bytes_sent in (0, 1, 3, 4, 5, 60, 200, 339):
        engine = liar(f"{whole}; write(1, bytes(said[:{bytes_sent}])); os._exit(3)")
        with pytest.raises(EngineError, match=r"died on this model \(exit status 3\)"):
            engine.run(PIXELS)


def test_a_child_that_dies_on_every_picture_is_given_up(liar: Callable[[str], Engine]) -> None:
    engine = liar("os._exit(0)")
    for _ in range(3):
        with pytest.raises(EngineError, match=r"died on this model \(exit status 0\)"):
            engine.run(PIXELS)
    last = child_of(engine)
    for _ in range(2):
        with pytest.raises(EngineError, match="died 3 times in a row and is not started again"):
            engine.run(PIXELS)
    assert child_of(engine) is last


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_a_child_that_lies_is_one_line(
    liar: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    engine = liar(lie)
    monkeypatch.setattr(engine._graph.run.__self__._child._keeper, "join", lambda _: time.sleep(0.1))  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=LIES[lie]) as caught:
        engine.run(PIXELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        "dict(sizes=[])",
        "dict(inputs=[], outputs=7, sizes=[])",
        "dict(inputs=[1], outputs=[], sizes=[])",
        "dict(inputs=[tensor('x', [{}], 'uint8')], outputs=[], sizes=[])",
        "dict(inputs=[tensor('x', [1], 'uint8') | dict(scale=10**400)], outputs=[], sizes=[])",
        "dict(inputs=[tensor('x', [1], 'uint8') | dict(zero_point=2**70)], outputs=[], sizes=[])",
        "dict(inputs=[tensor('x', [1], 'uint8')] * 65, outputs=[], sizes=[])",
    ],
)
def test_a_child_that_lies_about_its_model_is_found_out(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(child, "_PROGRAM", LIAR.replace("say(graph); hear()", f"say({said}); hear()"))
    with pytest.raises(EngineError, match="answers nonsense"):
        open_engine("litert", tiny("float32"), TINY_IO, 1, isolate=True)


def test_a_child_whose_model_is_another_is_refused_as_any_engines_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lie = LIAR.replace("say(graph); hear()", "say(graph | dict(outputs=graph['outputs'][:1])); hear()")
    monkeypatch.setattr(child, "_PROGRAM", lie)
    with pytest.raises(BundleError, match=r"model\.tflite: no output 'class_map'"):
        open_engine("litert", tiny("float32"), TINY_IO, 1, isolate=True)


def broken(error: Exception) -> Callable[..., Any]:
    """Return a function that raises an error."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_where_it_is_not_possible_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(UsageError, match="isolation needs a Python of its own"):
        open_engine("litert", tiny("int8"), TINY_IO, isolate=True)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match="cannot be started: got No such file"):
        open_engine("litert", tiny("int8"), TINY_IO, isolate=True)
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", broken(RuntimeError("can't start new thread")))
        with pytest.raises(EngineError, match="cannot be started: got can't start new thread"):
            layers_here()
        without.undo()
        without.setattr(child.subprocess, "Popen", broken(MemoryError()))
        with pytest.raises(EngineError, match="cannot be started: got MemoryError"):
            layers_here()
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UsageError, match=r"isolation is not possible on this system: got .*, expected Linux or macOS"):
        open_engine("litert", tiny("int8"), TINY_IO, isolate=True)


def test_the_commands_take_it_and_say_what_holds(
    run: Callable[..., tuple[int, str, list[str]]], tmp_path: Path, picture_file: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    for command in (["classify", "--json", picture_file, "--model", bundle], ["verify", "--json", bundle]):
        status, alone, _ = run(*command)
        status_2, isolated, err = run(*command, "--isolate")
        assert status == status_2 == 0 and err[0].startswith("note: the engine is isolated by: parent, privileges, ")
        for one, other in zip(map(json.loads, alone.splitlines()), map(json.loads, isolated.splitlines()), strict=True):
            one.pop("timings_ms", None), other.pop("timings_ms", None)
            assert one == other


def test_a_layer_that_does_not_hold_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = (Layer("limits", True, "1.1 GB"), Layer("Landlock", False, "Function not implemented"))
    opening._tell(layers)
    assert capsys.readouterr().err.splitlines() == [
        "note: the engine is isolated by: limits (1.1 GB)",
        "warning: isolation without Landlock: Function not implemented",
    ]
    monkeypatch.setattr(graph, "layers_here", lambda: layers)
    (check,) = installation._isolation(Device())
    assert check.result == "warning" and "limits holds; Landlock does not: Function not impl" in check.found
    monkeypatch.setattr(graph, "layers_here", lambda: layers[:1])
    (check,) = installation._isolation(Device())
    assert check.result == "ok" and not check.todo
    monkeypatch.undo()
    monkeypatch.delattr(os, "fork")
    (check,) = installation._isolation(Device())
    assert check.result == "warning" and "not possible on this system" in check.found


def test_the_child_sees_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/tmp/x")
    monkeypatch.setenv("SECRET_TOKEN", "1")
    engine = open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    command = Path(f"/proc/{child_of(engine).pid}/cmdline")
    if not command.exists():
        pytest.skip("no /proc")
    assert b"-I\0-S" in command.read_bytes()
    environment, asked = {}, subprocess.Popen

    def seen(*arguments: Any, **options: Any) -> Any:
        environment.update(options["env"])
        return asked(*arguments, **options)

    monkeypatch.setattr(child.subprocess, "Popen", seen)
    open_engine("litert", tiny("int8"), TINY_IO, 1, isolate=True)
    assert set(environment) <= {"LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"} and environment
