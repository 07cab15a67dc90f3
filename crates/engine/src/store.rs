//! Where images go to and come from: the engine knows names and bytes, not files or archives.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryopod_sys::revise;
pub use cryopod_sys::revise::{Content, Edit};

/// Takes the images of a dump, each written once.
pub trait ImageSink {
    /// Stores a whole image under `name`, such as `core-1.img`.
    ///
    /// # Errors
    /// Whatever the destination reports.
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Begins an image of bare pages, such as `pages-1.img`; one is open at a time.
    ///
    /// # Errors
    /// Whatever the destination reports.
    fn begin_pages(&mut self, name: &str) -> io::Result<()>;

    /// Appends to the open image of pages; always whole pages.
    ///
    /// # Errors
    /// Whatever the destination reports, such as no space left.
    fn write_pages(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Ends the open image of pages.
    ///
    /// # Errors
    /// Whatever the destination reports.
    fn end_pages(&mut self) -> io::Result<()>;

    /// Changes an image of pages that has ended: what was written to since is replaced, what is new is
    /// put in, what is gone is taken out, all in whole pages.
    ///
    /// # Errors
    /// Whatever the destination reports; the images are of no use then.
    fn revise_pages(
        &mut self,
        name: &str,
        edits: &[Edit],
        content: &mut Content<'_>,
    ) -> io::Result<()>;
}

/// Bytes of pages that [`CheckPages`] is asked about at once.
pub const CHUNK: u64 = 1 << 20;

/// Knows what bare pages were when they were written.
pub trait CheckPages: std::fmt::Debug + Send + Sync {
    /// The chunk that byte `at` of the pages is in: its number, and which bytes it has.
    fn chunk(&self, at: u64) -> (usize, Range<u64>);

    /// Looks at a chunk, all of its bytes.
    ///
    /// # Errors
    /// When the bytes are not what was written; where, and of what.
    fn check(&self, index: usize, bytes: &[u8]) -> io::Result<()>;
}

/// Bare pages inside a file that can be read at any offset.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The file that holds them.
    pub file: Arc<File>,
    /// Where they begin in it, in bytes.
    pub offset: u64,
    /// How many bytes there are.
    pub len: u64,
    /// By what they are checked when they are read late; `None`: there is nothing to check by.
    pub check: Option<Arc<dyn CheckPages>>,
}

impl Pages {
    /// The chunk that byte `at` is in, which is read, and checked, as a whole: its number, and which
    /// bytes it has.
    #[must_use]
    pub fn chunk(&self, at: u64) -> (usize, Range<u64>) {
        if let Some(check) = &self.check {
            return check.chunk(at);
        }
        let index = at / CHUNK;
        let begin = index.saturating_mul(CHUNK).min(self.len);
        (index as usize, begin..begin.saturating_add(CHUNK).min(self.len))
    }
}

/// Gives the images of a dump back.
pub trait ImageSource {
    /// A whole small image; `None` when there is none of that name.
    ///
    /// # Errors
    /// Whatever the source reports, a wrong digest included.
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// An image of bare pages; `None` when there is none of that name.
    ///
    /// # Errors
    /// Whatever the source reports.
    fn pages(&self, name: &str) -> io::Result<Option<Pages>>;
}

/// Images as files of one directory, as criu keeps them.
#[derive(Debug)]
pub struct DirectorySink {
    dir: PathBuf,
    open: Option<File>,
}

impl DirectorySink {
    /// Writes into `dir`, which must exist; existing images of the same names are replaced.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    fn create(&self, name: &str) -> io::Result<File> {
        if let Some((folder, _)) = name.rsplit_once('/') {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.dir.join(folder))?;
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.dir.join(name))
    }
}

impl ImageSink for DirectorySink {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.create(name)?.write_all(bytes)
    }

    fn begin_pages(&mut self, name: &str) -> io::Result<()> {
        self.open = Some(self.create(name)?);
        Ok(())
    }

    fn write_pages(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.open {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::other("no image of pages is open")),
        }
    }

    fn end_pages(&mut self) -> io::Result<()> {
        self.open = None;
        Ok(())
    }

    fn revise_pages(
        &mut self,
        name: &str,
        edits: &[Edit],
        content: &mut Content<'_>,
    ) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        revise::revise(&file, edits, content)
    }
}

/// Reads images from the files of one directory.
#[derive(Debug)]
pub struct DirectorySource {
    dir: PathBuf,
}

impl DirectorySource {
    /// Reads from `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl ImageSource for DirectorySource {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        absent_is_none(std::fs::read(self.dir.join(name)))
    }

    fn pages(&self, name: &str) -> io::Result<Option<Pages>> {
        let Some(file) = absent_is_none(File::open(self.dir.join(name)))? else {
            return Ok(None);
        };
        let len = file.metadata()?.len();
        Ok(Some(Pages { file: Arc::new(file), offset: 0, len, check: None }))
    }
}
