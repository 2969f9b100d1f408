//! Extended attributes and access control lists travel with their files.

use std::ffi::CStr;

use super::*;
use crate::sys::xattr;

/// A list of one named user besides owner, group and others, as the kernel has it (posix_acl_xattr.h).
fn list_for(user: u32) -> Vec<u8> {
    let entries = [(1u16, 6u16, u32::MAX), (2, 6, user), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

#[test]
fn as_root_attributes_and_access_control_lists_come_back() {
    let (_folder, top) = folder();
    let [file, inner, pipe] = ["file", "inner", "pipe"].map(|name| top.join(name));
    fs::write(&file, "content").unwrap();
    fs::create_dir(&inner).unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    chown(&file, Some(1000), Some(1000)).unwrap();
    let set: [(&PathBuf, &CStr, Vec<u8>); 5] = [
        (&file, c"user.note", b"kept".to_vec()),
        (&file, c"security.capability", [&0x0200_0000u32.to_le_bytes()[..], &[0, 4, 0, 0], &[0; 12]].concat().to_vec()),
        (&file, c"system.posix_acl_access", list_for(1234)),
        (&inner, c"system.posix_acl_default", list_for(1235)),
        (&pipe, c"system.posix_acl_access", list_for(1236)),
    ];
    for (path, name, value) in &set {
        xattr::set(path, name, value).unwrap();
    }
    let all = [file.clone(), inner.clone(), pipe.clone()];
    let mut captured = capture(&all).unwrap();
    let before = all.each_ref().map(|path| owner(path));
    fs::remove_file(&file).unwrap();
    fs::remove_dir(&inner).unwrap();
    fs::remove_file(&pipe).unwrap();
    assert!(captured.put_back().unwrap().is_empty());
    for (path, name, value) in &set {
        assert_eq!(&xattr::get(path, name).unwrap(), value, "{name:?}");
    }
    assert_eq!(all.each_ref().map(|path| owner(path)), before);
    // What may not be set is named, and the file is there.
    fs::remove_file(&file).unwrap();
    without(&[Capability::CAP_SETFCAP], || {
        let lost = captured.put_back().unwrap();
        let said = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        assert!(
            said.starts_with(&format!("{} has lost its attribute security.capability here", file.display())),
            "{said}"
        );
    });
    assert_eq!(xattr::get(&file, c"user.note").unwrap(), b"kept");
}

#[test]
fn as_root_attributes_of_the_user_come_back_whatever_the_mode_is() {
    let (_folder, top) = folder();
    let names = ["locked", "read-only", "write-only"];
    let paths = names.map(|name| top.join(name));
    fs::create_dir(&paths[0]).unwrap();
    for path in &paths[1..] {
        fs::write(path, "content").unwrap();
    }
    for (path, mode) in paths.iter().zip([0o500, 0o444, 0o200]) {
        xattr::set(path, c"user.note", b"kept").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    without(&[Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH], || {
        let mut captured = capture(&paths).unwrap();
        for path in &paths[1..] {
            fs::remove_file(path).unwrap();
        }
        let before = owner(&paths[0]);
        assert_eq!(captured.put_back().unwrap().len(), 0);
        assert_eq!((owner(&paths[0]), owner(&paths[1]).2), (before, 0o444));
        assert_eq!(captured.files.iter().map(|file| file.attributes.len()).collect::<Vec<_>>(), [1, 1, 0]);
    });
    assert_eq!(xattr::get(&paths[1], c"user.note").unwrap(), b"kept");
}
