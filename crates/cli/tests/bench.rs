//! Experiments, with few samples: that they measure, not what comes out.

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{User, eventually, finish, read, signal};

/// A guest that is small and quick.
const SMALL: [&str; 4] = ["--memory-mib", "64", "--touched-mib", "8"];

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).expect("JSON")
}

fn rows(document: &Value) -> &Vec<Value> {
    document["rows"].as_array().expect("rows")
}

/// The arguments of `hyperfork bench`, with `--json path`.
fn bench<'a>(path: &'a Path, words: &[&'a str]) -> Vec<&'a str> {
    let path = path.to_str().expect("a path of letters");
    [&["bench"], words, &["--json", path]].concat()
}

#[test]
fn fork_times_are_written_with_all_their_samples_and_drawn() {
    let user = User::new();
    let (file, plots) = (user.path("fork.json"), user.path("plots"));
    let plots_dir = plots.to_str().expect("a path of letters");
    let words = [
        "fork",
        "-n",
        "3",
        "--dirty-pages",
        "0,50",
        "--plot",
        plots_dir,
    ];
    let table = user.ok(&bench(&file, &[&words[..], &SMALL].concat()));
    assert!(table.starts_with("STRATEGY"), "{table}");

    let document = json(&file);
    assert_eq!(document["complete"], true);
    for key in ["kernel", "commit", "cpu", "kvm", "build"] {
        assert!(!document["host"][key].as_str().expect(key).is_empty());
    }
    assert_eq!(document["host"]["state"], "warm");
    let expected = [
        ("image", 0, 8),
        ("image", 50, 8),
        ("process-fork", 0, 8),
        ("process-fork", 50, 8),
        ("boot", 0, 0),
        ("raw", 0, 8),
    ];
    assert_eq!(rows(&document).len(), expected.len());
    for (row, (strategy, dirty_pages, touched_mib)) in rows(&document).iter().zip(expected) {
        assert_eq!(row["strategy"], strategy);
        assert_eq!(row["dirty_pages"], dirty_pages);
        assert_eq!(row["touched_mib"], touched_mib);
        assert_eq!(row["guest"], "nano");
        assert_eq!((&row["memory_mib"], &row["vcpus"]), (&64.into(), &1.into()));
        let samples = row["samples"]["total_us"].as_array().map_or(0, Vec::len);
        assert_eq!(row["n"], samples);
        if strategy == "process-fork" && !row["failed"].is_null() {
            // A VM that cannot be forked like that says why.
            assert!(row["failed"].as_str().expect("a reason").len() > 10);
            continue;
        }
        assert_eq!((samples, &row["failed"]), (3, &Value::Null), "{row}");
        let us = |key: &str| {
            row[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key} in {row}"))
        };
        assert!(us("min_us") > 0.0);
        for pair in [
            "min_us", "p2_5_us", "p50_us", "p97_5_us", "p99_us", "max_us",
        ]
        .windows(2)
        {
            assert!(us(pair[0]) <= us(pair[1]), "{row}");
        }
        if strategy == "image" {
            assert!(us("pause_p50_us") > 0.0 && us("ready_p50_us") >= us("p50_us"));
            assert!(us("first_us") > 0.0 && us("from_pool") <= 3.0);
            for phase in ["capture", "shell", "memory", "state", "first_run"] {
                assert!(row["phases_p50_us"][phase].is_number(), "{row}");
            }
        }
    }
    let svg = read(plots.join("fork.svg"));
    assert!(svg.contains("image, 50 pages written") && svg.contains("cold boot"));
    assert_eq!(
        read(plots.join("fork.csv")).lines().count(),
        1 + expected.len()
    );
    user.must_be_clean();
}

#[test]
fn many_clones_at_once_and_long_lines_are_rows_and_series_of_their_own() {
    let user = User::new();
    let (file, plots) = (user.path("fork.json"), user.path("plots"));
    let plots_dir = plots.to_str().expect("a path of letters");
    let words = [
        "fork",
        "-n",
        "2",
        "--strategy",
        "image",
        "--dirty-pages",
        "20",
        "--clones",
        "1,3",
        "--depth",
        "0,2",
        "--plot",
        plots_dir,
    ];
    user.ok(&bench(&file, &[&words[..], &SMALL].concat()));
    let document = json(&file);
    let expected = [(1, 0), (1, 2), (3, 0), (3, 2)];
    assert_eq!(rows(&document).len(), expected.len());
    for (row, (clones, depth)) in rows(&document).iter().zip(expected) {
        assert_eq!((&row["n"], &row["failed"]), (&2.into(), &Value::Null));
        assert_eq!(
            (&row["clones"], &row["depth"]),
            (&clones.into(), &depth.into())
        );
        let us = |key: &str| {
            row[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key} in {row}"))
        };
        assert!((us("per_clone_us") * f64::from(clones) - us("p50_us")).abs() < 1.0);
        assert!(us("ready_p50_us") >= us("p50_us") && us("cpu_p50_us") > 0.0);
        assert!(us("from_pool") <= f64::from(2 * clones));
    }
    let svg = read(plots.join("fork.svg"));
    for series in [
        "image, 20 pages",
        "image, 3 clones at once, depth 2, 20 pages",
    ] {
        assert!(svg.contains(series), "{svg}");
    }
    user.must_be_clean();
}

#[test]
fn forks_in_a_row_leave_nothing_behind_also_of_a_parent_whose_writes_are_tracked() {
    let user = User::new();
    let words = [
        "bench",
        "soak",
        "-n",
        "80",
        "--memory-mib",
        "64",
        "--touched-mib",
        "20",
        "--dirty-pages",
        "5000",
        "--later-pages",
        "20",
        "--json",
        "-",
    ];
    let document = user.json(&words);
    let row = &rows(&document)[0];
    assert_eq!(
        (&row["failed"], &row["grown"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!((&row["n"], &row["dirty_pages"]), (&80.into(), &5000.into()));
    let census = row["census"].as_array().expect("counts");
    assert_eq!(census[0]["forks"], 40);
    assert_eq!(census.last().expect("a count")["forks"], 80);
    for counted in census {
        for key in ["fds", "threads", "mappings", "rss_kib", "files_kib"] {
            for process in ["parent", "pool"] {
                assert!(counted[process][key].as_u64() > Some(0), "{counted}");
            }
        }
        // This parent, and its shells.
        assert!(counted["processes"].as_u64() > Some(1), "{counted}");
    }
    user.must_be_clean();
}

#[test]
fn a_run_that_is_interrupted_leaves_no_vm_and_the_same_command_goes_on() {
    let user = User::new();
    let file = user.path("fork.json");
    let words = ["fork", "--strategy", "image", "--dirty-pages", "0"];
    let words = [&words[..], &SMALL].concat();
    let child = user.start(&bench(&file, &[&words[..], &["-n", "1000000"]].concat()));
    let samples = || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        document["rows"][0]["samples"]["total_us"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    eventually("two samples", || samples().len() >= 2);
    signal(&child, "INT");
    assert_eq!(finish(child).status, 130);
    user.must_be_clean();
    assert_eq!(json(&file)["complete"], false);

    let before = samples();
    let more = (before.len() + 1).to_string();
    user.ok(&bench(&file, &[&words[..], &["-n", &more]].concat()));
    assert_eq!(json(&file)["complete"], true);
    let after = samples();
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after[..before.len()], before);
    user.must_be_clean();
}

#[test]
fn a_result_of_another_host_is_neither_continued_nor_compared_with() {
    let user = User::new();
    let file = user.path("boot.json");
    let words = ["boot", "-n", "1", "--memory-mib", "64"];
    let arguments = bench(&file, &words);
    user.ok(&arguments);
    let own = user.run(
        &[
            &["bench"],
            &words[..],
            &["--compare", file.to_str().expect("a path")],
        ]
        .concat(),
    );
    assert!(
        own.status == 0 && own.stderr.contains("boot, 64 MiB"),
        "{own:?}"
    );

    let mut document = json(&file);
    document["host"]["kernel"] = "0.99".into();
    document["complete"] = false.into();
    fs::write(&file, document.to_string()).expect("written");
    let before = read(&file);
    let refused = user.fails(1, &arguments);
    assert!(refused.contains("another host"), "{refused}");
    let compared = [
        &["bench"],
        &words[..],
        &["--compare", file.to_str().expect("a path")],
    ]
    .concat();
    let refused = user.fails(1, &compared);
    assert!(
        refused.contains("different hosts cannot be compared"),
        "{refused}"
    );
    assert_eq!(read(&file), before);
    user.must_be_clean();
}

#[test]
fn passes_over_memory_are_timed_before_the_fork_and_in_the_clone() {
    let user = User::new();
    let words = [
        "bench",
        "cow",
        "-n",
        "2",
        "--strategy",
        "image",
        "--json",
        "-",
    ];
    let document = user.json(&[&words[..], &SMALL].concat());
    let kinds = [
        ("before", false),
        ("after", false),
        ("before", true),
        ("after", true),
    ];
    assert_eq!(rows(&document).len(), kinds.len());
    for (row, (phase, faulting)) in rows(&document).iter().zip(kinds) {
        assert_eq!(
            (&row["phase"], &row["faulting"]),
            (&phase.into(), &faulting.into())
        );
        assert_eq!(
            (&row["pages"], &row["n"]),
            (&2048.into(), &2.into()),
            "{row}"
        );
        assert!(row["p50_us"].as_f64().expect("a time") > 0.0, "{row}");
        assert_eq!(
            row["penalty_percent"].is_number(),
            phase == "after",
            "{row}"
        );
    }
    user.must_be_clean();
}

#[test]
fn the_memory_of_clones_is_counted() {
    let user = User::new();
    let words = [
        "bench",
        "density",
        "-n",
        "2",
        "--dirty-pages",
        "100",
        "--json",
        "-",
    ];
    let document = user.json(&[&words[..], &SMALL].concat());
    assert_eq!(rows(&document).len(), 2);
    for (row, clones) in rows(&document).iter().zip(1..) {
        assert_eq!(
            (&row["clones"], &row["n"]),
            (&clones.into(), &clones.into())
        );
        let kib = |key: &str| {
            row[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key} in {row}"))
        };
        // Each clone wrote 100 pages of its own, and a process is more than its guest.
        assert!(kib("touched_kib_per_clone") >= 400.0, "{row}");
        assert!(
            kib("pss_kib_per_clone") > kib("touched_kib_per_clone"),
            "{row}"
        );
        assert!(kib("p99_us") >= kib("p50_us") && row["host_kib_per_clone"].is_number());
    }
    user.must_be_clean();
}

#[test]
fn what_no_guest_can_do_is_refused_before_anything_is_measured() {
    let user = User::new();
    for (words, why) in [
        (
            &["fork", "--touched-mib", "63", "--memory-mib", "64"][..],
            "lower --touched-mib",
        ),
        (
            &["fork", "--dirty-pages", "99999", "--memory-mib", "64"],
            "lower --dirty-pages",
        ),
        (
            &["fork", "--guest", "base", "--strategy", "raw"],
            "--guest nano",
        ),
        (
            &["density", "--guest", "base", "--touched-mib", "8"],
            "--guest nano",
        ),
    ] {
        let refused = user.fails(2, &[&["bench"], words].concat());
        assert!(refused.contains(why), "{refused}");
    }
    let notes = user.path("notes.txt");
    fs::write(&notes, "mine").expect("written");
    let refused = user.fails(1, &bench(&notes, &["boot", "-n", "1"]));
    assert!(refused.contains("name another file"), "{refused}");
    assert_eq!(read(&notes), "mine");
}
