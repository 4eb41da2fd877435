//! Images by name, over recipes that take no time.

mod common;

use common::{Fake, Steps, artifacts, chain, image, is_empty, simple, store};
use hyperfork_image::{BuildError, Image, ImageError};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn the_second_build_of_an_image_runs_no_step() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a")]);
    let mut steps = Steps::default();
    let built = store.build("one", &mut steps).unwrap();
    assert_eq!(steps.0, ["making kernels", "making trees", "making roots"]);

    let mut steps = Steps::default();
    let again = store.build("one", &mut steps).unwrap();
    assert_eq!(steps.0, [""; 0]);
    assert_eq!(again, built);
    assert_eq!(fs::read_to_string(&again.rootfs).unwrap(), "a");
    assert_eq!(again.environment.env[0], ("MADE_OF".into(), "a".into()));
    assert!(again.size_bytes > 0);
}

#[test]
fn resolving_never_builds_and_finds_only_what_the_recipe_says_now() {
    let root = tempfile::tempdir().unwrap();
    let first = store(root.path(), vec![simple("one", "a")]);
    assert_eq!(first.resolve("one").unwrap(), None);
    let built = first.build("one", &mut ()).unwrap();
    assert_eq!(first.resolve("one").unwrap(), Some(built.clone()));

    let changed = store(root.path(), vec![simple("one", "b")]);
    assert_eq!(changed.resolve("one").unwrap(), None);
    assert_eq!(changed.list().unwrap(), [built]);
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a"), simple("two", "a")]);
    let answers = [
        store.build("tow", &mut ()).err(),
        store.resolve("tow").err(),
        store.remove("tow").err(),
    ];
    for error in answers.into_iter().flatten() {
        assert!(matches!(error, ImageError::Unknown { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "there is no image 'tow'; known images: one, two"
        );
    }
    let error = store.remove("one").unwrap_err();
    assert!(matches!(error, ImageError::NotBuilt(_)), "{error:?}");
}

#[test]
fn images_share_what_they_have_in_common_and_removing_one_keeps_it() {
    let root = tempfile::tempdir().unwrap();
    let with_tree = |name, tree| {
        let rootfs = Fake::root(name, Fake::tree(tree));
        image(name, Fake::kernel("shared"), rootfs)
    };
    let images = vec![with_tree("one", "x"), with_tree("two", "y")];
    let store = store(root.path(), images);
    let one = store.build("one", &mut ()).unwrap();
    let mut steps = Steps::default();
    let two = store.build("two", &mut steps).unwrap();
    assert_eq!(steps.0, ["making trees", "making roots"]);
    assert_eq!(one.kernel, two.kernel);

    store.remove("one").unwrap();
    assert!(!one.rootfs.exists());
    assert_eq!(artifacts(root.path(), "trees").len(), 1);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&two));
    assert!(two.kernel.exists() && two.rootfs.exists());

    store.remove("two").unwrap();
    assert!(is_empty(root.path()));
}

#[test]
fn removing_an_image_does_not_disturb_who_has_its_files_open() {
    use std::io::Read;
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "content")]);
    let image = store.build("one", &mut ()).unwrap();
    let mut disk = fs::File::open(&image.rootfs).unwrap();
    store.remove("one").unwrap();
    let mut content = String::new();
    disk.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
}

#[test]
fn a_changed_recipe_replaces_the_disk_at_once_and_keeps_what_takes_minutes_until_removal() {
    let root = tempfile::tempdir().unwrap();
    let old = store(root.path(), vec![simple("one", "a")]);
    let old = old.build("one", &mut ()).unwrap();
    let store = store(root.path(), vec![simple("one", "b")]);
    let new = store.build("one", &mut ()).unwrap();
    assert_ne!(old.digest, new.digest);
    assert!(!old.rootfs.exists());
    assert!(old.kernel.exists());
    store.remove("one").unwrap();
    assert!(is_empty(root.path()));
}

#[test]
fn an_image_is_removed_whole_while_other_threads_start_programs() {
    let root = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        let store = store(root.path(), vec![simple("one", "a")]);
        let left = (0..50).find(|_| {
            store.build("one", &mut ()).unwrap();
            store.remove("one").unwrap();
            !is_empty(root.path())
        });
        done.store(true, Ordering::Relaxed);
        assert_eq!(left, None);
    });
}

#[test]
fn a_failed_build_leaves_nothing_and_the_image_before_it_stays() {
    let root = tempfile::tempdir().unwrap();
    let failing = || {
        let rootfs = Fake::root("b", Fake::tree("a")).then(|job| {
            let path = job.out.join("x");
            let refused = io::Error::from(io::ErrorKind::PermissionDenied);
            Err(BuildError::file("write", &path)(refused))
        });
        image("one", Fake::kernel("a"), rootfs)
    };
    let first = store(root.path(), vec![failing()]);
    let error = first.build("one", &mut ()).unwrap_err();
    let told = chain(&error);
    assert!(told.contains("cannot build a fake of roots"), "{told}");
    assert!(told.ends_with("permission denied"), "{told}");
    assert!(!told.contains('\n'), "{told}");
    assert_eq!(first.list().unwrap(), []);
    assert!(artifacts(root.path(), "roots").is_empty());
    assert!(artifacts(root.path(), "tmp").is_empty());

    let good = store(root.path(), vec![simple("one", "a")]);
    let built = good.build("one", &mut ()).unwrap();
    let again = store(root.path(), vec![failing()]);
    again.build("one", &mut ()).unwrap_err();
    assert_eq!(good.resolve("one").unwrap(), Some(built));
}

#[test]
fn threads_that_want_the_same_image_build_it_once() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a")]);
    let steps: Vec<String> = std::thread::scope(|scope| {
        let build = || {
            let mut steps = Steps::default();
            store.build("one", &mut steps).unwrap();
            steps.0
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(build)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    for made in ["making kernels", "making trees", "making roots"] {
        assert_eq!(steps.iter().filter(|step| *step == made).count(), 1);
    }
}

#[test]
fn too_small_a_disk_is_told_before_anything_is_built() {
    let root = tempfile::tempdir().unwrap();
    let kernel = Fake {
        space_needed: u64::MAX >> 1,
        ..Fake::kernel("a")
    };
    let rootfs = Fake::root("a", Fake::tree("a"));
    let store = store(root.path(), vec![image("one", kernel, rootfs)]);
    let mut steps = Steps::default();
    let error = store.build("one", &mut steps).unwrap_err();
    let told = chain(&error);
    assert!(told.starts_with("not enough disk space to build a fake of kernels"));
    assert_eq!(steps.0, [""; 0]);
    assert!(is_empty(root.path()));
}

#[test]
fn a_manifest_that_cannot_be_understood_is_as_good_as_none() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a")]);
    let built = store.build("one", &mut ()).unwrap();
    fs::write(root.path().join("images/one.json"), "{\"version\":9}").unwrap();
    assert_eq!(store.resolve("one").unwrap(), None);
    assert_eq!(store.list().unwrap(), []);
    let mut steps = Steps::default();
    let again = store.build("one", &mut steps).unwrap();
    assert_eq!(again.digest, built.digest);
    assert_eq!(steps.0, [""; 0]);
}

#[test]
fn an_artifact_whose_record_cannot_be_understood_is_as_good_as_none_and_is_built_again() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a"), simple("two", "b")]);
    let built = store.build("one", &mut ()).unwrap();
    store.build("two", &mut ()).unwrap();
    let of_one = |directory: &Path| directory.parent().unwrap().join("meta.json");
    for (path, made) in [(&built.rootfs, "roots"), (&built.kernel, "kernels")] {
        fs::write(of_one(path), "{\"environment\":{}}").unwrap();
        assert_eq!(store.resolve("one").unwrap(), None);
        let names = |images: Vec<Image>| images.into_iter().map(|image| image.name);
        assert!(names(store.list().unwrap()).eq(["two"]));
        let mut steps = Steps::default();
        let again = store.build("one", &mut steps).unwrap();
        assert_eq!(steps.0, [format!("making {made}")]);
        assert_eq!(again.environment, built.environment);
        assert_eq!(store.resolve("one").unwrap(), Some(again));
    }
    // Nor does one stand in the way of removing others.
    fs::remove_file(of_one(&built.rootfs)).unwrap();
    store.remove("two").unwrap();
    store.build("one", &mut ()).unwrap();
    store.remove("one").unwrap();
    assert!(is_empty(root.path()));
}

#[test]
fn earlier_versions_can_read_what_is_recorded_of_an_artifact() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), vec![simple("one", "a")]);
    let built = store.build("one", &mut ()).unwrap();
    let record = built.rootfs.parent().unwrap().join("meta.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    let expected = serde_json::json!({"env": [["MADE_OF", "a"]], "pvm_env": []});
    assert_eq!(record["environment"], expected);
}
