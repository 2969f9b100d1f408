//! The privileges that the containers of a test have.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// The settings of integration/sandbox/README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Restricted,
    RestrictedPodman,
    OpenShift,
    Caps,
    FileCaps,
    Ambient,
    Nested,
    UserNamespace,
    Unconfined,
}

impl Setting {
    /// Its name in the sandbox.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::RestrictedPodman => "restricted-podman",
            Self::OpenShift => "openshift",
            Self::Caps => "caps",
            Self::FileCaps => "file-caps",
            Self::Ambient => "ambient",
            Self::Nested => "nested",
            Self::UserNamespace => "user-namespace",
            Self::Unconfined => "unconfined",
        }
    }

    /// User and group, as seen from outside, to whom volumes belong. OpenShift gives them to a group only.
    pub fn owner(self) -> u32 {
        match self {
            Self::Restricted | Self::RestrictedPodman | Self::FileCaps | Self::Ambient | Self::Nested => 1000,
            Self::OpenShift | Self::Caps | Self::Unconfined => 0,
            Self::UserNamespace => 100_000,
        }
    }

    /// Makes a folder that the container can write.
    pub fn make_volume(self, folder: &Path) {
        fs::create_dir(folder).unwrap();
        let mode = if self == Self::OpenShift { 0o2770 } else { 0o700 };
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        chown(folder, Some(self.owner()), Some(self.owner())).unwrap();
    }

    /// The runtime folder, inside: below a volume that is not the user's own where that cannot be it.
    pub fn runtime_dir(self) -> &'static str {
        if self == Self::OpenShift { "/runtime/freeze" } else { "/runtime" }
    }
}

/// Makes one test for each setting of a function that takes it.
macro_rules! in_all_settings {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        mod restricted { $(#[test] fn $name() { super::$name(crate::harness::Setting::Restricted) })* }
        mod restricted_podman { $(#[test] fn $name() { super::$name(crate::harness::Setting::RestrictedPodman) })* }
        mod caps { $(#[test] fn $name() { super::$name(crate::harness::Setting::Caps) })* }
        mod unconfined { $(#[test] fn $name() { super::$name(crate::harness::Setting::Unconfined) })* }
    };
}
pub(crate) use in_all_settings;
