// SPDX-License-Identifier: MIT
//! `sys` is what the C header says: structs, constants, functions, versions.

use dirtylog::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn include_directory() -> PathBuf {
    match env::var_os("DIRTYLOG_INCLUDE_DIR") {
        Some(directory) => directory.into(),
        None => here().join("../../../include"),
    }
}

/// The header without comments.
fn header() -> String {
    let path = include_directory().join("dirtylog/dirtylog.h");
    let text = fs::read_to_string(path).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code + rest
}

/// What sys says, by name: sizes, offsets and values.
fn ours() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, bytes, fields) in sys::layouts() {
        all.insert(name.to_owned(), bytes as u64);
        for (field, offset) in fields {
            all.insert(format!("{name}.{field}"), offset as u64);
        }
    }
    for (name, value) in sys::CONSTANTS {
        all.insert((*name).to_owned(), u64::from(*value));
    }
    all
}

/// A C program that prints the same of the header.
fn program(names: impl Iterator<Item = String>) -> String {
    let mut text =
        "#include <dirtylog/dirtylog.h>\n#include <stdio.h>\nint main(void)\n{\n".to_owned();
    for name in names {
        let value = match name.split_once('.') {
            Some((of, field)) => format!("offsetof(struct {of}, {field})"),
            None if name.starts_with("dl_") => format!("sizeof(struct {name})"),
            None => name.clone(),
        };
        writeln!(
            text,
            "printf(\"{name} %llu\\n\", (unsigned long long)({value}));"
        )
        .unwrap();
    }
    text + "return 0;\n}\n"
}

fn compiler() -> Command {
    let cc = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut words = cc.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("-I").arg(include_directory());
    command
}

/// Compiles and runs it.
fn theirs(program: &str) -> BTreeMap<String, u64> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (directory.join("layout.c"), directory.join("layout"));
    fs::write(&source, program).unwrap();
    assert!(compiler()
        .arg(&source)
        .arg("-o")
        .arg(&binary)
        .status()
        .unwrap()
        .success());
    let output = Command::new(&binary).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn structs_and_constants_are_the_header_s() {
    let ours = ours();
    assert!(ours.len() > 100, "only {} to compare", ours.len());
    assert_eq!(ours, theirs(&program(ours.keys().cloned())));
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The fields of each struct in the header, as `struct.field`.
fn fields_of_header(code: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (at, before) in code.match_indices("struct dl_") {
        let (name, rest) = match code[at + before.len()..].split_once(" {") {
            Some((name, rest)) if words(name).count() == 1 => (name.trim(), rest),
            _ => continue,
        };
        let body = rest.split_once("};").unwrap().0;
        for field in body.split(';').filter_map(|line| words(line).last()) {
            all.insert(format!("dl_{name}.{field}"));
        }
    }
    all
}

#[test]
fn nothing_of_the_header_is_left_out() {
    let code = header();
    let ours = ours();
    let fields = fields_of_header(&code);
    assert!(
        fields.len() > 60,
        "only {} fields in the header",
        fields.len()
    );
    for field in &fields {
        assert!(ours.contains_key(field), "sys has no {field}");
    }
    let enums: Vec<_> = code
        .split("enum dl_")
        .skip(1)
        .filter(|it| it.contains('{'))
        .collect();
    let values = enums
        .iter()
        .map(|it| it.split_once('{').unwrap().1.split_once('}').unwrap().0);
    let constants: Vec<_> = values
        .flat_map(words)
        .filter(|it| it.starts_with("DL_"))
        .collect();
    assert!(
        constants.len() > 20,
        "only {} constants in the header",
        constants.len()
    );
    for constant in constants {
        assert!(ours.contains_key(constant), "sys has no {constant}");
    }
}

/// The functions that the header declares.
fn functions_of_header(code: &str) -> BTreeSet<&str> {
    let names = code.split('(').filter_map(|before| {
        before
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next_back()
    });
    names.filter(|name| name.starts_with("dl_")).collect()
}

#[test]
fn every_function_is_declared_and_called() {
    let code = header();
    let functions = functions_of_header(&code);
    assert!(
        functions.len() > 25,
        "only {} functions in the header",
        functions.len()
    );
    let source = |name: &str| fs::read_to_string(here().join("src").join(name)).unwrap();
    let declared = source("sys.rs");
    let safe = ["log.rs", "vcpu.rs", "cursor.rs", "pass.rs", "plan.rs"]
        .map(source)
        .concat();
    for function in functions {
        assert!(
            declared.contains(&format!("pub fn {function}(")),
            "sys has no {function}()"
        );
        assert!(
            safe.contains(&format!("sys::{function}(")),
            "nothing calls {function}()"
        );
    }
}

#[test]
fn versions_are_the_same() {
    let of_header =
        sys::DL_VERSION_MAJOR << 16 | sys::DL_VERSION_MINOR << 8 | sys::DL_VERSION_PATCH;
    assert_eq!(dirtylog::library_version(), of_header);
    let parts = [
        sys::DL_VERSION_MAJOR,
        sys::DL_VERSION_MINOR,
        sys::DL_VERSION_PATCH,
    ];
    let text = parts.map(|part| part.to_string()).join(".");
    assert_eq!(env!("CARGO_PKG_VERSION"), text, "Cargo.toml");
    if let Ok(project) = env::var("DIRTYLOG_VERSION") {
        assert_eq!(env!("CARGO_PKG_VERSION"), project, "meson.build");
    }
}
