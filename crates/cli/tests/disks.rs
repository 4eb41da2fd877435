//! Disks beside the root: `run --disk`, their listing in `inspect`, `cp VM:/dev/vdb`.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use support::User;

/// A compressed image made by `qemu-img convert -c -O qcow2 -o cluster_size=4k` of
/// [`sectors`].
fn qcow2() -> String {
    let path = support::package().join("tests/data/sectors.qcow2");
    path.to_str().unwrap().to_owned()
}

/// A MiB; the sectors of the first and the last 64 KiB have their number in them.
fn sectors() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    for (number, sector) in disk.chunks_mut(512).enumerate() {
        if !(128..1920).contains(&number) {
            let text = format!("sector {number}\n");
            sector[..text.len()].copy_from_slice(text.as_bytes());
        }
    }
    disk
}

/// A file system of 4 MiB in a file.
fn file_system(user: &User, name: &str) -> PathBuf {
    let path = user.path(name);
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"])
        .arg(&path)
        .arg("4M")
        .status();
    assert!(made.unwrap().success());
    path
}

fn must_be_clean(image: &PathBuf) {
    let checked = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// Runs a script in a VM, which succeeds; what it prints, in one line.
fn sh(user: &User, vm: &str, script: &str) -> String {
    let printed = user.ok(&["exec", vm, "--", "sh", "-c", script]);
    printed.trim().replace('\n', " ")
}

/// A small /var/tmp, prepared at `$0`. The directories of the other one stay where they are: this
/// checkout, or the test's own directory, may be in one of them.
const LITTLE_ROOM: &str = r#"
set -e
mount -t tmpfs -o size=12m none "$0"
for directory in /var/tmp/*/ /var/tmp/.[!.]*/; do
    if [ -d "$directory" ]; then
        there="$0/$(basename "$directory")"
        mkdir "$there"
        mount -o bind "$directory" "$there"
    fi
done
mount -o move "$0" /var/tmp
exec "$@"
"#;

/// Runs the program where overlays have 12 MiB, in a mount namespace of its own.
fn boot_with_little_room(user: &User, args: &[&str]) {
    let small = user.path("small");
    fs::create_dir(&small).unwrap();
    let command = user.command(args);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", LITTLE_ROOM])
        .arg(small)
        .arg(command.get_program());
    unshare.args(command.get_args());
    unshare.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let ended = unshare.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn disks_are_private_to_each_clone_their_images_are_never_written_and_a_full_one_says_so() {
    let user = User::new();
    let data = file_system(&user, "data.img");
    let before = fs::read(&data).unwrap();
    let (attached, shared) = (data.display().to_string(), format!("{}:ro", data.display()));
    let mut args = vec!["run", "-d", "--quiet", "--name", "p", "--memory", "256MiB"];
    let qcow2 = qcow2();
    let read_only = format!("{qcow2}:ro");
    for disk in [&attached, &read_only, &shared, &qcow2] {
        args.extend(["--disk", disk]);
    }
    let large = user.path("large");
    File::create(&large).unwrap().set_len(64 << 20).unwrap();
    args.extend(["--disk", large.to_str().unwrap()]);
    boot_with_little_room(&user, &args);

    // What is there, and in which way.
    let found = sh(
        &user,
        "p",
        "cat /sys/block/vd[bcd]/size /sys/block/vd[bcd]/ro",
    );
    assert_eq!(found, "8192 2048 8192 0 1 1");
    fs::write(user.path("sectors"), sectors()).unwrap();
    let sum = Command::new("md5sum")
        .arg(user.path("sectors"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split(' ').next().unwrap();
    assert!(sh(&user, "p", "md5sum < /dev/vdc").starts_with(sum));
    assert_eq!(
        user.run(&[
            "exec",
            "p",
            "--",
            "dd",
            "if=/dev/zero",
            "of=/dev/vdc",
            "count=1"
        ])
        .status,
        1
    );

    // A full file system is an error of that write alone, and its disk stays whole.
    let script = "mkdir /data && mount /dev/vdb /data && echo mine > /data/mine; \
         dd if=/dev/zero of=/data/full bs=64k 2>&1 | grep -o 'No space left on device'; \
         rm /data/full; sync; echo more > /data/more && cat /data/mine /data/more";
    assert_eq!(sh(&user, "p", script), "No space left on device mine more");

    // Each writes to its own from here on.
    sh(
        &user,
        "p",
        "echo over | dd of=/dev/vde conv=notrunc 2>/dev/null; sync",
    );
    user.ok(&["fork", "p", "--quiet"]);
    sh(
        &user,
        "p-1",
        "echo clone > /data/mine; sync; blkdiscard -o 0 -l 65536 /dev/vde",
    );
    sh(&user, "p", "echo parent > /data/mine; umount /data");
    assert_eq!(sh(&user, "p-1", "cat /data/mine; umount /data"), "clone");
    let drop = "echo 3 > /proc/sys/vm/drop_caches";
    assert_eq!(
        sh(
            &user,
            "p-1",
            &format!("{drop}; head -c 512 /dev/vde | tr -d '\\0'")
        ),
        ""
    );
    assert_eq!(
        sh(&user, "p", &format!("{drop}; head -n 1 /dev/vde")),
        "over"
    );

    // A host without room is an I/O error in the guest, as long as there is none.
    let fill = "dd if=/dev/zero of=/dev/vdf bs=1M count=12 conv=fsync";
    let full = user.run(&["exec", "p", "--", "sh", "-c", fill]);
    assert!(
        full.status != 0 && full.stderr.contains("Input/output error"),
        "{full:?}"
    );
    let told = user.json(&["inspect", "p"])["disks"][5]["error"].to_string();
    assert!(told.contains("No space left on device"), "{told}");
    sh(&user, "p", "blkdiscard /dev/vdf");
    sh(
        &user,
        "p",
        "dd if=/dev/zero of=/dev/vdf bs=1M count=2 conv=fsync",
    );
    sh(
        &user,
        "p-1",
        "dd if=/dev/zero of=/dev/vdf bs=1M count=2 conv=fsync",
    );

    // From outside.
    let info = user.json(&["inspect", "p-1"]);
    let disk = &info["disks"][1];
    assert_eq!(disk["device"], "vdb");
    assert_eq!(disk["path"], attached.as_str());
    assert_eq!(
        (&disk["size_mib"], &disk["error"]),
        (&4.into(), &serde_json::Value::Null)
    );
    assert!(disk["private_mib"].as_u64().unwrap() >= 1, "{disk}");
    assert!(disk["shared_mib"].as_u64().unwrap() >= 1, "{disk}");
    assert_eq!(info["disks"][2]["read_only"], true);
    assert_eq!(info["disks"][2]["private_mib"], 0);

    // What is on them can be taken out, also onto the image in use, or while it is paused.
    user.ok(&["pause", "p"]);
    for (vm, word) in [("p", "parent\n"), ("p-1", "clone\n")] {
        let image = user.path(vm);
        user.ok(&["cp", &format!("{vm}:/dev/vdb"), image.to_str().unwrap()]);
        must_be_clean(&image);
        let args = ["-R", "cat mine", image.to_str().unwrap()];
        let read = Command::new("debugfs").args(args).output().unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap(), word);
    }
    assert_eq!(fs::read(&data).unwrap(), before);
    user.ok(&["cp", "p:/dev/vdb", &attached]);
    must_be_clean(&data);
    assert!(
        user.fails(1, &["cp", "p:/dev/vdz", "x"])
            .contains("no disk vdz")
    );
    assert!(
        user.fails(1, &["cp", "p:/dev/vdb", "/no/such/file"])
            .contains("/no/such/file")
    );
    user.ok(&["rm", "-f", "p", "p-1"]);
}

#[test]
fn a_disk_that_cannot_be_one_is_told_in_one_line_and_nothing_is_left() {
    let user = User::new();
    let file = |name: &str, content: &[u8]| {
        let path = user.path(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let locked = file("locked", &[0; 4096]);
    let writer = File::options().write(true).open(&locked).unwrap();
    writer.lock().unwrap();
    let mut escaping = fs::read(qcow2()).unwrap();
    // The header's fields backing_file_offset and backing_file_size, and the format.
    escaping.resize(64 << 10, 0);
    let escaping = file("escaping", &escaping);
    let header = File::options().write(true).open(&escaping).unwrap();
    header
        .write_all_at(&[0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 11], 8)
        .unwrap();
    header.write_all_at(b"/etc/passwd", 2048).unwrap();
    for (disk, word) in [
        (file("empty", b""), "is empty"),
        (file("odd", &[0; 1000]), "multiple of 512"),
        (
            file("bad", b"QFI\xfb is what it begins with, no more"),
            "qcow2",
        ),
        (file("none", &[0; 4096]) + ":qcow2", "qcow2"),
        (locked, "in use"),
        (escaping, "/etc/passwd"),
        ("/dev/null".to_owned(), "cannot be a disk"),
    ] {
        // Without progress: another test may be building the root disk.
        let line = user.fails(125, &["run", "--quiet", "--name", "p", "--disk", &disk]);
        assert!(line.contains(word), "{disk}: {line}");
    }
    user.must_be_clean();
}

#[test]
fn a_root_disk_has_the_size_asked_for_and_a_full_one_says_so() {
    let user = User::new();
    let boot = |size: &str| {
        let args = ["run", "-d", "--quiet", "--name", "p", "--memory", "256MiB"];
        user.run(&[&args[..], &["--disk-size", size]].concat())
    };
    let line = boot("16MiB").must_have_failed(125);
    assert!(line.contains("root disk of 16MiB"), "{line}");
    user.must_be_clean();
    assert_eq!(boot("64MiB").status, 0);
    assert_eq!(sh(&user, "p", "cat /sys/block/vda/size"), "131072");
    let script = "fallocate -l 60M /full 2>&1 | grep -o 'No space left on device'; \
         rm -f /full; echo on > /on && cat /on";
    assert_eq!(sh(&user, "p", script), "No space left on device on");
    user.ok(&["rm", "-f", "p"]);
}
