//! What a database that cannot be used says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use store::sqlite::{Config, Sqlite};
use store::{Error, Store};

use crate::support::*;

/// Opens a store that `spoil` has had its hands on; the error's chain.
async fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("state.db");
    set(&*fixture.store, "a", "1").await;
    set(&*fixture.store, "b", "2").await;
    fixture.store.close().await;
    spoil(&path);
    let before = fs::read(&path).ok();
    let error = Sqlite::open(&path, Config::default()).expect_err("it cannot be used");
    assert!(matches!(error, Error::Unusable { .. }), "{error:?}");
    assert_eq!(fs::read(&path).ok(), before, "it was not touched");
    let message = base::Chain(&error).to_string();
    let name = path.display().to_string();
    assert!(message.starts_with(&name), "{message} names the file");
    message[name.len()..].trim_start_matches(": ").to_owned()
}

fn edit(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn says_what_is_wrong_and_what_to_do() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 12] = [
        ("is not a database; move the file away", |path| {
            fs::write(
                path,
                "definitely not a database, but long enough to be one".repeat(99),
            )
            .unwrap();
        }),
        (
            "is a database of another program; move the file away",
            |path| {
                fs::remove_file(path).unwrap();
                edit(path, "CREATE TABLE theirs (x)");
            },
        ),
        (
            "is a database of another program; move the file away",
            |path| {
                edit(path, "PRAGMA application_id = 7");
            },
        ),
        (
            "written by a newer version (its schema is 99, this one knows 1); run that",
            |path| {
                edit(path, "PRAGMA user_version = 99");
            },
        ),
        ("its schema -1 is unknown", |path| {
            edit(path, "PRAGMA user_version = -1")
        }),
        ("its directory does not exist; create it", |path| {
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }),
        ("what should be its directory is a file", |path| {
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path.parent().unwrap(), "").unwrap();
        }),
        ("is a directory; move it away", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("the database is damaged; restore a snapshot", |path| {
            let length = fs::metadata(path).unwrap().len();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(length - 4096)
                .unwrap();
        }),
        ("the database is damaged; restore a snapshot", |path| {
            edit(
                path,
                "UPDATE versions SET version = -1 WHERE key = CAST('b' AS BLOB)",
            );
        }),
        ("the database is damaged; restore a snapshot", |path| {
            edit(
                path,
                "UPDATE versions SET id = 5 WHERE key = CAST('b' AS BLOB)",
            );
        }),
        ("reading the database failed", |path| {
            edit(path, "DROP TABLE versions")
        }),
    ];
    for (expected, spoil) in cases {
        let message = refusal(spoil).await;
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn two_cannot_share_a_database() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("state.db");
    let error = Sqlite::open(&path, Config::default())
        .unwrap_err()
        .to_string();
    let expected = format!("in use by another process (process {})", std::process::id());
    assert!(error.contains(&expected), "{error}");
    fixture.store.close().await;
    Sqlite::open(&path, Config::default()).unwrap();
}

#[tokio::test]
async fn its_files_are_private() {
    let fixture = Fixture::new();
    set(&*fixture.store, "a", "1").await;
    for file in fs::read_dir(fixture.folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
    assert!(fixture.store.size().await.unwrap() > 4096);
}

#[tokio::test]
async fn dropping_the_store_releases_the_database() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("state.db");
    set(&*fixture.store, "a", "1").await;
    let Fixture { store, folder, .. } = fixture;
    drop(store);
    let store = Sqlite::open(&path, Config::default()).unwrap();
    assert_eq!(value(&*store, "a", None).await.as_deref(), Some("1"));
    drop((store, folder));
}
