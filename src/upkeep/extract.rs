//! `freeze extract`: writes a generation as plain files, which `crit` and a stock CRIU read.
//!
//! Never writes outside of its folder: symbolic links are created last, and a file below a link is refused.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use super::{Part, Progress, UpkeepError};
use crate::image::{self, Body, Fetcher, ImageError, Kind, Manifest, Piece, Vault};

/// Memory limit of the fetcher in bytes.
const MEMORY: u64 = 64 << 20;
/// Subfolder for CRIU images.
const IMAGES: &str = "images";
/// Subfolder for captured files, by their paths.
const FILES: &str = "files";

/// Result of an extraction.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Extracted {
    /// The extracted generation.
    pub generation: u64,
    /// Number of CRIU images, in `images`.
    pub images: u64,
    /// Number of captured files, in `files`.
    pub files: u64,
    /// Bytes of both, zeros included.
    pub bytes: u64,
}

/// Extracts a generation, by default the newest, into `folder`, which must be empty or not exist.
///
/// New files get mode 0600 and new folders 0700, whatever their captured modes: they hold the service's
/// memory.
pub fn extract(
    vault: &Vault,
    generation: Option<u64>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Extracted, UpkeepError> {
    let manifest = Manifest::load(vault, generation)?.ok_or_else(|| UpkeepError::Empty { url: vault.url().into() })?;
    check_links(&manifest)?;
    begin(folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let fetcher = Fetcher::new(vault, &manifest, MEMORY, threads)?;
    let bytes = manifest.bodies().map(Body::size).sum();
    progress.begin(Part::Extracting, bytes);
    let mut writer = Writer { fetcher, progress };
    for image in &manifest.images {
        writer.write(&folder.join(IMAGES).join(&image.name), image.body.as_ref())?;
    }
    for file in manifest.files.iter().filter(|file| !is_link(file)).chain(manifest.files.iter().filter(is_link)) {
        writer.put(&folder.join(FILES), file)?;
    }
    progress.end();
    let (images, files) = (manifest.images.len() as u64, manifest.files.len() as u64);
    Ok(Extracted { generation: manifest.generation, images, files, bytes })
}

fn is_link(file: &&image::File) -> bool {
    file.kind() == Kind::Symlink
}

/// Refuses paths below a symbolic link, as they would be written where the link points.
fn check_links(manifest: &Manifest) -> Result<(), UpkeepError> {
    let path = |file: &image::File| file.path().to_owned();
    let links: HashSet<PathBuf> = manifest.files.iter().filter(is_link).map(path).collect();
    for path in manifest.files.iter().map(path) {
        if let Some(link) = path.ancestors().skip(1).find(|ancestor| links.contains(*ancestor)) {
            return Err(UpkeepError::BelowLink { link: link.to_owned(), generation: manifest.generation, path });
        }
    }
    Ok(())
}

/// Creates `folder` and its subfolders, or fails if it has content.
fn begin(folder: &Path) -> Result<(), UpkeepError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| UpkeepError::Write { path, error }
    };
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_folders(folder).map_err(at(folder))?,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(UpkeepError::NotEmpty(folder.into())),
        Err(error) => return Err(at(folder)(error)),
        Ok(false) => return Err(UpkeepError::NotEmpty(folder.into())),
        Ok(true) => {}
    }
    [IMAGES, FILES].iter().try_for_each(|name| make_folders(&folder.join(name)).map_err(at(&folder.join(name))))
}

struct Writer<'a> {
    fetcher: Fetcher,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    /// Writes a captured file below `root`.
    fn put(&mut self, root: &Path, file: &image::File) -> Result<(), UpkeepError> {
        let path = below(root, &file.path);
        let made = path.parent().map_or(Ok(()), make_folders).and_then(|()| match file.kind() {
            Kind::Directory => make_folders(&path),
            Kind::Symlink => symlink(OsStr::from_bytes(&file.target), &path),
            Kind::Fifo => Ok(nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))?),
            Kind::HardLink => fs::hard_link(below(root, &file.target), &path),
            Kind::Regular | Kind::Unknown => Ok(()),
        });
        made.map_err(|error| UpkeepError::Write { path: path.clone(), error })?;
        if file.kind() == Kind::Regular { self.write(&path, file.body.as_ref()) } else { Ok(()) }
    }

    /// Writes a body to a new file, with holes for zeros.
    fn write(&mut self, path: &Path, body: Option<&Body>) -> Result<(), UpkeepError> {
        let at = |error| UpkeepError::Write { path: path.to_owned(), error };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at)?;
        let Some(body) = body else { return Ok(()) };
        let progress = self.progress;
        let written = self.fetcher.for_each(body, |piece| {
            let length = match piece {
                Piece::Data(data) => file.write_all(data).map(|()| data.len() as u64)?,
                Piece::Zeros(length) => skip(&mut file, length)?,
            };
            progress.add(length);
            Ok(())
        });
        match written.and_then(|()| file.set_len(body.size()).map_err(ImageError::Sink)) {
            Err(ImageError::Sink(error)) => Err(at(error)),
            result => Ok(result?),
        }
    }
}

fn skip(file: &mut File, length: u64) -> io::Result<u64> {
    let signed = i64::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
    file.seek(SeekFrom::Current(signed)).map(|_| length)
}

/// Joins `path` to `root`. Loading a manifest checks that its paths are absolute and have no `..`.
fn below(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

fn make_folders(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
