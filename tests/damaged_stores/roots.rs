//! Damage to `format`, `head`, markers and what prune writes.

use serde_json::json;

use crate::fixture::say;

#[test]
fn damaged_format() {
    insta::assert_snapshot!(say(&[
        ("a flipped bit", |f| f.flip("format", 0)),
        ("truncated", |f| f.resize("format", 10)),
        ("empty", |f| f.resize("format", 0)),
        ("missing", |f| f.remove("format")),
        ("huge", |f| f.resize("format", 1 << 40)),
        ("of version 1", |f| f.change_format(|format| format["version"] = 1.into())),
        ("of version 3", |f| f.write("format", r#"{"version":3,"id":[]}"#)),
        ("another id", |f| f.change_format(|format| format["id"] = "00".repeat(16).into())),
        ("another id, with the right hash", |f| f.forge_format(|format| format["id"] = "00".repeat(16).into())),
        ("a short id", |f| f.change_format(|format| format["id"] = "00".into())),
        ("a key in the clear", |f| f.forge_format(|format| format["keys"] = json!({ "plain": "00".repeat(32) }))),
        ("a key of an unknown kind", |f| f.change_format(|format| format["keys"] = json!({ "quantum": 1 }))),
    ]));
}

#[test]
fn absurd_demands_for_a_key() {
    fn demand(f: &mut crate::fixture::Fixture, memory_kib: u32, passes: u32, lanes: u32) {
        let salt = "00".repeat(16);
        let argon2id = json!({"salt": salt, "memory_kib": memory_kib, "passes": passes, "lanes": lanes});
        f.forge_format(|format| {
            format["keys"] = json!({"wrapped": {"kdf": {"argon2id": argon2id}, "master": "00".repeat(72)}});
        });
        f.keys.passphrase_file = Some(f.path("../key"));
        f.keys.key_file = None;
    }
    insta::assert_snapshot!(say(&[
        ("memory", |f| demand(f, u32::MAX, 1, 1)),
        ("passes", |f| demand(f, 64, u32::MAX, 1)),
        ("lanes", |f| demand(f, 64, 1, u32::MAX)),
        ("nothing", |f| demand(f, 0, 0, 0)),
    ]));
}

#[test]
fn damaged_head() {
    insta::assert_snapshot!(say(&[
        ("a flipped bit", |f| f.flip("head", 0)),
        ("truncated", |f| f.resize("head", 10)),
        ("empty", |f| f.resize("head", 0)),
        ("missing", |f| f.remove("head")),
        ("huge", |f| f.resize("head", 1 << 40)),
        ("of version 1", |f| f.write("head", r#"{"version":1,"generation":1}"#)),
        ("of version 3", |f| f.write("head", r#"{"version":3,"generation":1}"#)),
        ("written by hand", |f| {
            let head = String::from_utf8(f.read("head")).unwrap();
            f.write("head", head.replace("\"generation\":1", "\"generation\":9"));
        }),
        ("without its hash", |f| f.write("head", r#"{"version":2,"generation":1}"#)),
        ("another generation", |f| f.forge_head(9, 1)),
        ("an absurd generation", |f| f.forge_head(u64::MAX, 1)),
        ("an absurd epoch", |f| f.forge_head(1, u64::MAX)),
    ]));
}

#[test]
fn damaged_markers() {
    insta::assert_snapshot!(say(&[
        ("nonsense in that of a committed generation", |f| f.write("generations/1.committed", "x")),
        ("nonsense in that of a later generation", |f| f.write("generations/2.committed", "x")),
        ("huge", |f| {
            f.write("generations/2.committed", "");
            f.resize("generations/2.committed", 1 << 40);
        }),
        ("a genuine one of a later generation", |f| {
            let sealed = f.secrets().seal("generations/2.committed", b"");
            f.write("generations/2.committed", sealed);
        }),
        ("of an absurd generation", |f| f.write("generations/99999999999999999999.committed", "x")),
    ]));
}

#[test]
fn damaged_leftovers() {
    insta::assert_snapshot!(say(&[
        ("nonsense that condemns packs", |f| f.write("condemned/0", "{")),
        ("a whole store that is condemned", |f| {
            let id = &f.manifest.packs[0].id;
            f.write("condemned/0", format!(r#"{{"version":2,"packs":["{id}"]}}"#));
        }),
        ("nonsense in a manifest above head", |f| f.write("generations/2.manifest", "x")),
        ("a manifest of an absurd generation", |f| f.write("generations/18446744073709551615.manifest", "x")),
        ("a pack that is none", |f| f.write("packs/0123456789abcdef0123456789abcdef", "x")),
        ("an object of no kind", |f| f.write("strange/thing", "x")),
        ("half an object", |f| f.write("packs/.tmp-1", "x")),
    ]));
}
