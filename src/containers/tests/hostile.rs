//! Archives that mean harm.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use cri::{ErrorKind, ImageService};

use crate::support::{Node, Tar, docker_archive, image_config, on_node};

#[test]
fn nothing_leaves_the_layer() {
    on_node(|node: Node| async move {
        let outside = node.path("outside");
        std::fs::create_dir(&outside).unwrap();
        let outside = outside.to_str().unwrap();
        let bad: Vec<(&str, Vec<u8>)> = vec![
            ("climbs", Tar::new().file("../../evil", 0o644, b"x").done()),
            (
                "climbs within",
                Tar::new().file("a/../../evil", 0o644, b"x").done(),
            ),
            (
                "hard link out",
                Tar::new().hard_link("etc", "/etc/passwd").done(),
            ),
            ("cut short", {
                let mut bytes = Tar::new().file("a", 0o644, &[1; 5000]).done();
                bytes.truncate(2000);
                bytes
            }),
            ("no checksum", vec![b'x'; 4096]),
            ("through a link out", {
                Tar::new()
                    .symlink("out", outside)
                    .file("out/file", 0o644, b"x")
                    .done()
            }),
            (
                "device 0:0",
                Tar::new()
                    .entry(tar::EntryType::Char, "x", "", 0o600, b"")
                    .done(),
            ),
        ];
        for (name, layer) in bad {
            let path = node.path("bad.tar");
            std::fs::write(&path, docker_archive("bad:1", &[layer])).unwrap();
            let error = node.runtime.import(&path).await.unwrap_err();
            assert_eq!(
                error.kind,
                ErrorKind::Invalid,
                "{name}: {}",
                base::Chain(&error)
            );
            assert!(
                node.runtime.list_images().await.unwrap().is_empty(),
                "{name}"
            );
            for left in ["scratch", "layers", "records"] {
                let folder = node.path("data/images").join(left);
                assert_eq!(
                    std::fs::read_dir(folder).unwrap().count(),
                    0,
                    "{name}: {left}"
                );
            }
        }
        // Links that point out are kept as they are but lead nowhere outside.
        let layer = Tar::new()
            .symlink("out", outside)
            .symlink("up", "../../../../../..")
            .file("up/file2", 0o644, b"inside")
            .file("/abs", 0o4755, b"absolute")
            .entry(tar::EntryType::Fifo, "fifo", "", 0o600, b"")
            .done();
        let path = node.path("links.tar");
        std::fs::write(&path, docker_archive("links:1", &[layer])).unwrap();
        node.runtime.import(&path).await.unwrap();
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
        let layers = node.path("data/images/layers");
        let layer = std::fs::read_dir(layers)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert_eq!(std::fs::read(layer.join("file2")).unwrap(), b"inside");
        assert_eq!(
            std::fs::metadata(layer.join("abs")).unwrap().mode() & 0o7777,
            0o4755
        );
        assert!(
            std::fs::metadata(layer.join("fifo"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        assert_eq!(
            std::fs::read_link(layer.join("out")).unwrap().to_str(),
            Some(outside)
        );
        let images = node.path("data/images/layers");
        assert_eq!(
            std::fs::metadata(images).unwrap().permissions().mode() & 0o777,
            0o700
        );
    });
}

#[test]
fn whiteouts_hide_what_is_below() {
    on_node(|node: Node| async move {
        let lower = crate::support::busybox_layer();
        let middle = Tar::new()
            .file("gone", 0o644, b"x")
            .dir("dir", 0o755)
            .file("dir/old", 0o644, b"x")
            .file("replaced", 0o644, b"x")
            .done();
        let upper = Tar::new()
            .file(".wh.gone", 0o644, b"")
            .file("dir/.wh..wh..opq", 0o644, b"")
            .file("dir/new", 0o644, b"y")
            .file(".wh.replaced", 0o644, b"")
            .dir("replaced", 0o755)
            .done();
        let path = node.path("layers.tar");
        std::fs::write(&path, docker_archive("layers:1", &[lower, middle, upper])).unwrap();
        let image = node.runtime.import(&path).await.unwrap()[0].id.clone();
        let sandbox = node.sandbox("whiteout").await;
        let (log, _) = node
            .script(&sandbox, &image, "ls -d /gone; ls /dir; ls -d /replaced/")
            .await;
        assert!(log.iter().any(|l| l.contains("No such file")), "{log:?}");
        assert!(
            log.contains(&"stdout F new".to_owned())
                && log.contains(&"stdout F /replaced/".to_owned())
        );
        assert!(!log.contains(&"stdout F old".to_owned()), "{log:?}");
        use cri::ContainerRuntime;
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn many_layers_are_stacked() {
    on_node(|node: Node| async move {
        let mut layers = vec![crate::support::busybox_layer()];
        layers.extend((0..127).map(|n| Tar::new().file(&format!("n{n}"), 0o644, b"").done()));
        let path = node.path("many.tar");
        std::fs::write(&path, docker_archive("many:1", &layers)).unwrap();
        let image = node.runtime.import(&path).await.unwrap()[0].id.clone();
        let sandbox = node.sandbox("many").await;
        let (log, _) = node.script(&sandbox, &image, "ls -d /n* | wc -l").await;
        assert_eq!(log, ["stdout F 127"]);
        use cri::ContainerRuntime;
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn archives_that_lie_are_refused() {
    on_node(|node: Node| async move {
        let layer = Tar::new().file("a", 0o644, b"a").done();
        let other = Tar::new().file("b", 0o644, b"b").done();
        let config = image_config(std::slice::from_ref(&layer));
        let manifest =
            |layers: &str| format!(r#"[{{"Config":"c","RepoTags":["x:1"],"Layers":[{layers}]}}]"#);
        let archive = |manifest: &str, layer: &[u8]| {
            Tar::new()
                .file("c", 0o644, &config)
                .file("l", 0o644, layer)
                .file("manifest.json", 0o644, manifest.as_bytes())
                .done()
        };
        let windows = br#"{"os":"windows","architecture":"amd64","rootfs":{"diff_ids":[]}}"#;
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("digest", archive(&manifest("\"l\""), &other)),
            ("layer count", archive(&manifest(""), &layer)),
            ("not JSON", archive("nonsense", &layer)),
            ("no image", Tar::new().file("x", 0o644, b"").done()),
            (
                "other system",
                Tar::new()
                    .file("c", 0o644, windows)
                    .file("manifest.json", 0o644, manifest("").as_bytes())
                    .done(),
            ),
            ("no tar", b"hello".repeat(1000)),
        ];
        for (name, bytes) in cases {
            let path = node.path("lie.tar");
            std::fs::write(&path, bytes).unwrap();
            let error = node.runtime.import(&path).await.unwrap_err();
            assert_eq!(
                error.kind,
                ErrorKind::Invalid,
                "{name}: {}",
                base::Chain(&error)
            );
        }
        let missing = archive(&manifest("\"gone\""), &layer);
        std::fs::write(node.path("lie.tar"), missing).unwrap();
        assert!(node.runtime.import(&node.path("lie.tar")).await.is_err());
        assert!(node.runtime.list_images().await.unwrap().is_empty());
    });
}
