//! Opening the database: checks, creation, and the scan that builds the index.
//!
//! A store that cannot be used says which file, why, and what to do, before
//! anything in that file is touched. What is checked:
//!
//! - the lock file beside it, so that no two processes share a database;
//! - that SQLite takes it for a database, and its application id for ours;
//! - its schema version against the one this code knows;
//! - that it can be written;
//! - every row's bookkeeping columns, while the index is built. That walks all
//!   pages of the table but those only values lie on. A full
//!   `PRAGMA quick_check` reads the values' pages, too, and would make the
//!   start take as long as reading the whole file; it is left to the operator.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::Config;
use super::index::Index;
use super::row::{Version, decode_key};
use crate::{Error, Result};

/// `Krvs`: marks a database as a Karve store.
const APPLICATION_ID: i32 = 0x4b72_7673;

/// Layout of the tables. Raise it with every change an older Karve would misread.
const SCHEMA_VERSION: i32 = 1;

/// How long a connection waits for another's lock. Only the moments in which a
/// connection is opened or closed take locks that anyone waits for.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE versions (
        id      INTEGER PRIMARY KEY,
        key     BLOB    NOT NULL,
        created INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease   INTEGER NOT NULL,
        value   BLOB
    ) STRICT;
    CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Name in `meta`: oldest revision that can be read.
pub(crate) const COMPACTED: &str = "compacted";
/// Name in `meta`: revision up to which superseded rows are deleted. Behind
/// [`COMPACTED`], a compaction was cut short and goes on at the next start.
pub(crate) const SWEPT: &str = "swept";

/// An opened database.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    /// Held for as long as the database is in use.
    pub(crate) lock: File,
    pub(crate) index: Index,
    /// Leases and their granted times.
    pub(crate) leases: Vec<(i64, Duration)>,
    /// Revision of a compaction that was not finished.
    pub(crate) unfinished: Option<u64>,
}

/// Opens or creates the database at `path`.
pub(crate) fn open(path: &Path, config: &Config) -> Result<Opened> {
    let lock = lock(path)?;
    let created = create_file(path)?;
    let mut connection = connect(path, config)?;
    check(path, &mut connection)?;
    configure_writer(path, &connection, config)?;
    if created && config.fsync {
        sync_directory(path)?;
    }
    let mut index = scan(path, &connection)?;
    let read = |error| broken(path, error);
    index.compacted = meta(&connection, COMPACTED).map_err(read)?;
    index.revision = index.revision.max(index.compacted);
    let swept = meta(&connection, SWEPT).map_err(read)?;
    let unfinished = (swept < index.compacted).then_some(index.compacted);
    let leases = read_leases(&connection).map_err(read)?;
    Ok(Opened {
        connection,
        lock,
        index,
        leases,
        unfinished,
    })
}

/// Opens one more connection for reading.
pub(crate) fn connect_reader(path: &Path, config: &Config) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    tune(&connection, config.reader_cache_kib)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens one more connection for checkpoints.
pub(crate) fn connect_checkpointer(path: &Path, config: &Config) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    tune(&connection, config.reader_cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    synchronous(&connection, config)?;
    Ok(connection)
}

/// An error that names the file, the reason and the way out.
pub(crate) fn unusable(
    path: &Path,
    reason: impl std::fmt::Display,
    source: impl Into<Option<Box<dyn std::error::Error + Send + Sync>>>,
) -> Error {
    Error::Unusable {
        what: format!("{}: {reason}", path.display()),
        source: source.into(),
    }
}

/// What an error of SQLite while reading or opening says about the database.
pub(crate) fn broken(path: &Path, error: rusqlite::Error) -> Error {
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            "is not a database; move the file away, or choose another data directory"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "the database is damaged; restore a snapshot of it, or move the file away to start with an empty one"
        }
        Some(ErrorCode::ReadOnly) => {
            "the database cannot be written; make the file and its directory writable for the user who runs this"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            "no permission to read and write it; run as the user who owns it, or change its owner"
        }
        Some(ErrorCode::CannotOpen) => {
            "cannot be opened; check that it is a regular file and that its directory can be written"
        }
        Some(ErrorCode::DiskFull) => "the disk is full; free some space and start again",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds the database open; stop it and start again"
        }
        _ => "reading the database failed; check the disk and the kernel's log",
    };
    unusable(path, reason, Some(Box::from(error)))
}

/// A damaged row, met by a reader.
pub(crate) fn damaged(path: &Path, row: super::row::BadRow) -> Error {
    let reason = "the database is damaged; restore a snapshot of it, or move the file away to start with an empty one";
    unusable(path, reason, Some(Box::from(row)))
}

/// What an error of the system says about the file at `path`.
fn refused(path: &Path, error: std::io::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::NotFound => {
            "its directory does not exist; create it, or choose another data directory"
        }
        ErrorKind::NotADirectory => {
            "what should be its directory is a file; choose another data directory"
        }
        ErrorKind::IsADirectory => "is a directory; move it away, or choose another data directory",
        ErrorKind::PermissionDenied => {
            "no permission to read and write it; run as the user who owns it, or change its owner"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "its file system is mounted read-only; remount it writable, or choose another data directory"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full; free some space and start again"
        }
        _ => "cannot be opened",
    };
    unusable(path, reason, Some(Box::from(error)))
}

/// Takes the lock file, which holds our process id for the next one's message.
fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options
        .open(&lock_path)
        .map_err(|error| refused(path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let holder = match (&file).take(32).read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!(" (process {})", holder.trim()),
                _ => String::new(),
            };
            let reason = format!(
                "in use by another process{holder}; stop that one, or choose another data directory"
            );
            return Err(unusable(path, reason, None));
        }
        Err(TryLockError::Error(error)) => return Err(refused(path, error)),
    }
    // The lock counts, not what the file says; so a failure here is no matter.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Creates the file so that only its owner can read it; SQLite gives its
/// companions the same mode. Whether it was not there.
fn create_file(path: &Path) -> Result<bool> {
    let mut options = OpenOptions::new();
    match options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Opening tells the reason in the system's words; nobody in this
            // process has locks on the file yet that closing would drop.
            let opened = OpenOptions::new().read(true).write(true).open(path);
            opened.map(|_| false).map_err(|error| refused(path, error))
        }
        Err(error) => Err(refused(path, error)),
    }
}

fn connect(path: &Path, config: &Config) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| broken(path, error))?;
    tune(&connection, config.writer_cache_kib).map_err(|error| broken(path, error))?;
    Ok(connection)
}

/// Settings of every connection. Memory maps stay off: they would count as
/// resident and turn I/O errors into signals.
fn tune(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

fn synchronous(connection: &Connection, config: &Config) -> rusqlite::Result<()> {
    connection.pragma_update(
        None,
        "synchronous",
        if config.fsync { "FULL" } else { "OFF" },
    )
}

/// Makes sure that this is a store of ours, creating the tables in a new one.
fn check(path: &Path, connection: &mut Connection) -> Result<()> {
    let failed = |error| broken(path, error);
    let number = |connection: &Connection, pragma| {
        connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
    };
    let application = number(connection, "application_id").map_err(failed)?;
    let version = number(connection, "user_version").map_err(failed)?;
    let objects = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map_err(failed)?;
    if connection.is_readonly("main").map_err(failed)? {
        let reason = "the database cannot be written; make the file and its directory writable for the user who runs this";
        return Err(unusable(path, reason, None));
    }
    match (application, version) {
        (0, 0) if objects == 0 => create(connection).map_err(failed),
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, newer) if newer > SCHEMA_VERSION => {
            let reason = format!(
                "written by a newer version (its schema is {newer}, this one knows {SCHEMA_VERSION}); \
                 run that version again, or restore a snapshot this one has made"
            );
            Err(unusable(path, reason, None))
        }
        (APPLICATION_ID, other) => {
            let reason = format!("its schema {other} is unknown; restore a snapshot of it");
            Err(unusable(path, reason, None))
        }
        _ => {
            let reason = "is a database of another program; move the file away, or choose another data directory";
            Err(unusable(path, reason, None))
        }
    }
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    // Before the first page: superseded rows' pages are reused, not given
    // back, because moving pages writes more than it frees.
    connection.pragma_update(None, "auto_vacuum", "NONE")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn configure_writer(path: &Path, connection: &Connection, config: &Config) -> Result<()> {
    let failed = |error| broken(path, error);
    let mode = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        .map_err(failed)?;
    if mode != "wal" {
        let reason =
            "its file system cannot hold a write-ahead log; choose a data directory on a local one";
        return Err(unusable(path, reason, None));
    }
    synchronous(connection, config).map_err(failed)?;
    let settings = || {
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // A log that grew while a long read kept it from starting over is cut
        // back to this once it does.
        connection.pragma_update(None, "journal_size_limit", 8 << 20)
    };
    settings().map_err(failed)
}

fn sync_directory(path: &Path) -> Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| refused(path, error))
}

/// Builds the index in one pass in row order, which reads no values.
fn scan(path: &Path, connection: &Connection) -> Result<Index> {
    let failed = |error| broken(path, error);
    let mut index = Index::new();
    let mut statement = connection
        .prepare("SELECT id, created, version, lease, key FROM versions ORDER BY id")
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let column = |n| row.get_ref(n).map_err(failed);
        let columns = [column(0)?, column(1)?, column(2)?, column(3)?];
        let version = Version::decode(columns).map_err(|row| damaged(path, row))?;
        let key = decode_key(version.slot.row(), column(4)?).map_err(|row| damaged(path, row))?;
        index.push(key, version);
        index.revision = version.slot.revision();
    }
    Ok(index)
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare("SELECT value FROM meta WHERE name = ?")?;
    let mut rows = statement.query([name])?;
    match rows.next()? {
        Some(row) => Ok(u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0)),
        None => Ok(0),
    }
}

fn read_leases(connection: &Connection) -> rusqlite::Result<Vec<(i64, Duration)>> {
    let mut statement = connection.prepare("SELECT id, ttl FROM leases")?;
    let leases = statement.query_map([], |row| {
        let ttl = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        Ok((row.get(0)?, Duration::from_millis(ttl)))
    })?;
    leases.collect()
}
