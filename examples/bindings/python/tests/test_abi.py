# SPDX-License-Identifier: MIT
"""The binding has every constant, struct and function of the header, as the compiler sees them."""

import ctypes
import inspect
import os
import re
import subprocess
import tempfile
import unittest

import dirtylog
from dirtylog import _abi

INCLUDE = os.environ.get("DIRTYLOG_INCLUDE", "../../../include")
COMPILER = os.environ.get("CC", "cc").split()

# The enums of the header, and the class and the prefix of the names.
ENUMS = {
    "dl_mode": (_abi.Mode, "DL_MODE_"),
    "dl_backup": (_abi.Backup, "DL_BACKUP_"),
    "dl_has": (_abi.Has, "DL_HAS_"),
    "dl_slot_flag": (_abi.SlotFlag, "DL_SLOT_"),
    "dl_watch_flag": (_abi.WatchFlag, "DL_WATCH_"),
    "dl_remove_flag": (_abi.RemoveFlag, "DL_REMOVE_"),
    "dl_harvest_flag": (_abi.HarvestFlag, "DL_HARVEST_"),
    "dl_reap_flag": (_abi.ReapFlag, "DL_REAP_"),
    "dl_cursor_flag": (_abi.CursorFlag, "DL_CURSOR_"),
    "dl_end_flag": (_abi.EndFlag, "DL_END_"),
    "dl_take_flag": (_abi.TakeFlag, "DL_TAKE_"),
    "dl_bitmap_flag": (_abi.BitmapFlag, "DL_BITMAP_"),
    "dl_extent_flag": (_abi.ExtentFlag, "DL_EXTENT_"),
    "dl_goal_flag": (_abi.GoalFlag, "DL_GOAL_"),
    "dl_verdict": (_abi.Verdict, "DL_VERDICT_"),
    "dl_bound": (_abi.Bound, "DL_BOUND_"),
}

HANDLES = ("dl_log", "dl_vcpu", "dl_cursor", "dl_plan")

# Parameters; a handle, or what C only passes on, is a void pointer.
TYPES = {
    "void": None,
    "int": ctypes.c_int,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "char *": ctypes.c_char_p,
    "void *": ctypes.c_void_p,
    "uint64_t *": ctypes.POINTER(ctypes.c_uint64),
    "struct iovec *": ctypes.POINTER(_abi.iovec),
    **{"struct %s *" % handle: ctypes.c_void_p for handle in HANDLES},
    **{"struct %s **" % handle: ctypes.POINTER(ctypes.c_void_p)
       for handle in HANDLES},
}


def header():
    """The header without comments and preprocessor lines."""
    with open(os.path.join(INCLUDE, "dirtylog/dirtylog.h"), encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.S)
    text = re.sub(r"^#.*(?:\\\n.*)*$", "", text, flags=re.M).replace("DL_MUST_CHECK", "")
    return re.sub(r"\s+", " ", text)


def enums():
    return {name: re.findall(r"(\w+) =", body)
            for name, body in re.findall(r"enum (\w+) \{(.*?)\};", header())}


def structs():
    """Of each struct the names of its fields."""
    return {name: re.findall(r"(\w+);", body)
            for name, body in re.findall(r"struct (\w+) \{(.*?)\};", header())}


def functions():
    """Of each function the types of the result and the parameters, without const and names."""
    found = {}
    for result, name, parameters in re.findall(r"(\w+) (dl_\w+)\(([^)]*)\);", header()):
        types = [re.sub(r"\w+$", "", p.replace("const ", "").strip()).strip()
                 for p in parameters.split(",") if p.strip() != "void"]
        found[name] = [result] + types
    return found


def ask_compiler(expressions):
    """The values of C expressions that are unsigned constants."""
    lines = ["#include <dirtylog/dirtylog.h>", "#include <stddef.h>", "#include <stdio.h>",
             "#include <sys/uio.h>", "int main(void) {"]
    lines += ['printf("%%llu\\n", (unsigned long long)(%s));' % e for e in expressions]
    with tempfile.TemporaryDirectory() as scratch:
        source, program = os.path.join(scratch, "ask.c"), os.path.join(scratch, "ask")
        with open(source, "w", encoding="utf-8") as file:
            file.write("\n".join(lines + ["return 0; }", ""]))
        subprocess.run([*COMPILER, "-I", INCLUDE, "-o", program, source], check=True)
        output = subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout
    return dict(zip(expressions, map(int, output.split())))


class Abi(unittest.TestCase):
    def test_constants(self):
        found = enums()
        self.assertEqual(set(found), set(ENUMS))
        values = ask_compiler([name for names in found.values() for name in names])
        for enum, (binding, prefix) in ENUMS.items():
            with self.subTest(enum=enum):
                self.assertEqual({name: values[name] for name in found[enum]},
                                 {prefix + m.name: m.value for m in binding})

    def test_structs(self):
        found = structs()
        bound = {name: value for name, value in vars(_abi).items()
                 if inspect.isclass(value) and issubclass(value, ctypes.Structure)
                 and name != "iovec"}
        self.assertEqual(set(found), set(bound))
        # The compiler's own struct, so names only.
        found["iovec"], bound["iovec"] = ["iov_base", "iov_len"], _abi.iovec
        for name, fields in found.items():
            with self.subTest(struct=name):
                self.compare_struct(name, fields, bound[name])

    def compare_struct(self, name, fields, bound):
        self.assertEqual(fields, [field for field, _ in bound._fields_])
        size = "sizeof(struct %s)" % name
        questions = [size]
        for field in fields:
            questions += ["offsetof(struct %s, %s)" % (name, field),
                          "sizeof(((struct %s *)0)->%s)" % (name, field)]
        values = ask_compiler(questions)
        self.assertEqual(values[size], ctypes.sizeof(bound))
        for field, offset, width in zip(fields, questions[1::2], questions[2::2]):
            descriptor = getattr(bound, field)
            self.assertEqual((field, values[offset], values[width]),
                             (field, descriptor.offset, descriptor.size))

    def test_functions(self):
        found = functions()
        self.assertEqual(set(found), set(_abi.PROTOTYPES))
        for name, types in found.items():
            with self.subTest(function=name):
                self.assertEqual([self.type_of(t) for t in types],
                                 [self.plain(t) for t in _abi.PROTOTYPES[name]])

    def type_of(self, name):
        match = re.fullmatch(r"struct (dl_\w+) \*", name)
        if match and match.group(1) in structs():
            return ctypes.POINTER(getattr(_abi, match.group(1)))
        return TYPES[name]

    def plain(self, bound):
        """Parameters that are checked count as what they are for C."""
        return {_abi.u32: ctypes.c_uint32, _abi.u64: ctypes.c_uint64}.get(bound, bound)

    def test_every_function_is_used(self):
        """A prototype alone is no call."""
        package = os.path.dirname(dirtylog.__file__)
        text = ""
        for name in sorted(os.listdir(package)):
            if name.endswith(".py") and name != "_abi.py":
                with open(os.path.join(package, name), encoding="utf-8") as file:
                    text += file.read()
        self.assertEqual([name for name in _abi.PROTOTYPES if "lib." + name not in text], [])

    def test_every_flag_is_used(self):
        package = os.path.dirname(dirtylog.__file__)
        text = ""
        for name in ("_log.py", "_slot.py", "_cursor.py", "_plan.py"):
            with open(os.path.join(package, name), encoding="utf-8") as file:
                text += file.read()
        used = set(re.findall(r"\b(\w+Flag)\.(\w+)", text))
        flags = {(binding.__name__, member.name) for binding, _ in ENUMS.values()
                 for member in binding if binding.__name__.endswith("Flag")}
        self.assertEqual(flags - used, {("ExtentFlag", "PADDED")})  # read, never passed

    def test_versions_agree(self):
        version = ask_compiler(["DL_VERSION_MAJOR", "DL_VERSION_MINOR", "DL_VERSION_PATCH"])
        self.assertEqual(dirtylog.__version__, "%d.%d.%d" % tuple(version.values()))
        self.assertEqual(dirtylog.library_version(), tuple(version.values()))
        if "DIRTYLOG_VERSION" in os.environ:
            self.assertEqual(dirtylog.__version__, os.environ["DIRTYLOG_VERSION"])

    def test_a_library_of_another_series_is_refused(self):
        with self.assertRaises(ImportError):
            _abi.load((0, 99, 0))
        with self.assertRaises(ImportError):
            _abi.load((1, 2, 0))
