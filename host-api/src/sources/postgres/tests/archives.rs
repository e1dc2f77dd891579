//! The archive's reader: pieces of any size, cut and flipped archives.

use super::super::archive::{Reader, Restorable, Summary, read, read_head};
use super::*;

/// A small archive with everything a reader meets: names, several tables, a large object, no columns.
fn small(database: &str) -> Option<Vec<u8>> {
    let server = PgServer::shared()?;
    server.create(database);
    server.sql(
        database,
        &[
            "CREATE TABLE a(i int PRIMARY KEY, \"T x\" text); INSERT INTO a SELECT i, repeat('x', i) FROM generate_series(1, 40) i",
            "CREATE TABLE b(); INSERT INTO b DEFAULT VALUES",
            "SELECT lo_from_bytea(0, '\\x0001')",
        ],
    );
    let taken = take(&driver(server.source(database)), &[]);
    server.sql("postgres", &[&format!("DROP DATABASE {database}")]);
    Some(taken.objects.bytes())
}

fn in_pieces(bytes: &[u8], size: usize) -> crate::Result<Summary> {
    let mut reader = Reader::new();
    for piece in bytes.chunks(size) {
        reader.feed(piece)?;
    }
    reader.finish()
}

#[test]
fn pieces_cuts_and_flips() {
    let Some(archive) = small("small") else { return };
    let whole = read(archive.as_slice()).unwrap();
    assert_eq!(whole.tables.iter().map(|t| t.rows.rows).collect::<Vec<_>>(), [40, 1]);
    assert_eq!(whole.large_objects.rows, 1);
    for size in [1, 2, 3, 5, 17, 100, 4096] {
        assert_eq!(in_pieces(&archive, size).unwrap(), whole, "{size}");
    }
    assert_eq!(read_head(archive.as_slice()).unwrap().objects, whole.objects);

    // Cut anywhere, also exactly between two blocks: never complete.
    for end in 0..archive.len() {
        let error = in_pieces(&archive[..end], 4096).unwrap_err();
        assert!(error.message.contains("damaged"), "{end}: {error}");
    }
    // Flipped anywhere: an answer or an error, no panic; and no silent change of what was counted.
    let data = archive.len() - 2200.min(archive.len());
    let (mut caught, mut kept) = (0, 0);
    for at in 0..archive.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut flipped = archive.clone();
            flipped[at] ^= bit;
            match in_pieces(&flipped, 4096) {
                Ok(summary) if summary == whole => kept += 1,
                _ => caught += 1,
            }
        }
    }
    // What stays unnoticed is what is neither counted nor hashed here (dates, statements that drop): the signed digest is for that.
    assert!(caught > data / 2, "{caught} caught, {kept} kept");
}

#[test]
fn hostile_lengths_are_refused_early() {
    let header = |rest: &[u8]| {
        let mut bytes = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
        bytes.extend_from_slice(&[0; 5]);
        for _ in 0..7 {
            bytes.extend_from_slice(&[0; 5]);
        }
        bytes.extend_from_slice(rest);
        bytes
    };
    // The database's name is 2 GiB long.
    assert!(read(header(b"\x00\xff\xff\xff\x7f").as_slice()).unwrap_err().message.contains("longer than 64 MiB"));
    // Two billion entries.
    let absent = b"\x01\x01\x00\x00\x00";
    let many = [absent.as_slice(), absent, absent, b"\x00\xff\xff\xff\x7f"].concat();
    assert!(read(header(&many).as_slice()).unwrap_err().message.contains("entries"));
    let unknown = b"PGDMP\x01\x11\x00\x04\x08\x01";
    assert!(read(unknown.as_slice()).unwrap_err().message.contains("1.17 can't be counted"));
    assert!(read(b"-- PostgreSQL database dump".as_slice()).unwrap_err().message.contains("damaged"));
    assert!(read(b"".as_slice()).is_err());
}

#[test]
fn insert_statements_and_own_compression_are_refused() {
    let server = server!();
    server.create("inserts");
    server.sql("inserts", &["CREATE TABLE a(i int)", "INSERT INTO a VALUES (1)"]);
    let dump = |arguments: &[&str]| {
        let mut command = std::process::Command::new(server.bin_dir.join("pg_dump"));
        command.args(["-h", &server.host, "-p", &server.port.to_string(), "-U", "postgres", "-d", "inserts", "-Fc"]);
        command.args(arguments).output().unwrap().stdout
    };
    assert!(read(dump(&["-Z0", "--inserts"]).as_slice()).unwrap_err().message.contains("INSERT"));
    assert!(read(dump(&["-Z6"]).as_slice()).unwrap_err().message.contains("compressed"));
    assert_eq!(read(dump(&["-Z0", "--load-via-partition-root"]).as_slice()).unwrap().tables.len(), 1);
}

#[test]
fn the_lines_in_the_formats_page_are_those_of_the_vector() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let object = docs.join(
        "vectors/store/shop/objects/20261123T073246024z-p9jwb0/20261123T073245854z-jv4jb5-1-1/db.data.pgdump.zst",
    );
    let archive = zstd::stream::read::Decoder::new(std::fs::File::open(object).unwrap()).unwrap();
    let definitions = read(archive).unwrap().definitions;
    let objects = Memory::default();
    super::super::definitions::store(&objects, &definitions).unwrap();
    let lines = String::from_utf8(objects.of_role("structure").unwrap()).unwrap();
    let formats = std::fs::read_to_string(docs.join("FORMATS.md")).unwrap();
    let shown = lines.lines().filter(|line| formats.lines().any(|shown| shown == *line));
    assert_eq!(shown.count(), 3, "{lines}");
}

fn restorable(archive: &[u8], size: usize, freeze: bool) -> crate::Result<Vec<u8>> {
    let (mut restorable, mut written) = (Restorable::new(freeze), Vec::new());
    archive.chunks(size).try_for_each(|piece| restorable.pass(piece, &mut written))?;
    restorable.finish().map(|()| written)
}

#[test]
fn what_is_restored_holds_what_the_archive_holds() {
    let Some(archive) = small("restorable") else { return };
    let whole = read(archive.as_slice()).unwrap();
    for size in [1, 7, 4096] {
        let joined = restorable(&archive, size, false).unwrap();
        assert_eq!(read(joined.as_slice()).unwrap(), whole);
        assert!(joined.len() < archive.len(), "a row's chunk has a length of its own no more");
    }
    let mut frozen = read(restorable(&archive, 4096, true).unwrap().as_slice()).unwrap();
    let tables = std::mem::replace(&mut frozen.tables, whole.tables.clone());
    assert_eq!(frozen, whole);
    for (table, before) in tables.iter().zip(&whole.tables) {
        assert_eq!(table.rows, before.rows);
        assert_eq!(table.copy, before.copy.replace(" FROM stdin;", " FROM stdin WITH (FREEZE);"));
    }
    for end in 0..archive.len() {
        // Between two blocks it may end; that one is missing, pg_restore finds.
        if let Ok(cut) = restorable(&archive[..end], 4096, true) {
            assert!(read(cut.as_slice()).is_err(), "{end}");
        }
    }
    for at in 0..archive.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut flipped = archive.clone();
            flipped[at] ^= bit;
            // An answer or an error, no panic, and no more than was there.
            if let Ok(written) = restorable(&flipped, 4096, true) {
                assert!(written.len() < archive.len() + 100);
            }
        }
    }
}
