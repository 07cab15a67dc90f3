//! The folder of archives as a store: what is in it, reading, deleting, pinning.
//!
//! The folder is all the state there is. A pin is a file `NAME.tar.keep` beside the archive, as
//! checkpoint-restore-operator has it; whether an archive is being read is told by a lock on the
//! file (flock(2)), so that several processes can work on one folder: a reader holds it shared,
//! who deletes takes it alone. Nothing is lost when a process dies: the kernel lets its locks go.
//!
//! An archive is a regular file whose name ends in `.tar` and does not begin with a dot: names
//! under which archives are being written look otherwise. Links are not followed. Whose archive it
//! is, is read from inside it, never from its name, whose parts cannot be told apart.
//!
//! A runtime that writes in place, under the final name, is covered by [`Store::writing`].

mod folder;
mod marker;
mod reading;
mod stored;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

pub use folder::{Held, StoreError};
pub use marker::PIN_SUFFIX;
pub use reading::Reading;
pub use stored::{Identity, Stored};

use folder::Folder;

/// The end of an archive's name.
pub const ARCHIVE_SUFFIX: &str = ".tar";

/// Archives of one folder. Clones share it.
#[derive(Clone)]
pub struct Store {
    folder: Arc<Folder>,
    /// Who deletes.
    deleting: Arc<AsyncMutex<()>>,
}

/// The right to delete, which one task of this process has at a time.
#[derive(Debug)]
pub(crate) struct Alone(#[expect(dead_code, reason = "held, not looked at")] OwnedMutexGuard<()>);

/// The disk a folder is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What can still be written by who is not root.
    pub available: u64,
}

/// While it lives, the name is being written: nobody sees, reads or deletes it.
#[derive(Debug)]
pub struct Writing {
    folder: Arc<Folder>,
    name: String,
}

impl Store {
    /// The store of a folder. One that is not there is an empty store, until it is.
    ///
    /// # Errors
    /// [`StoreError::Folder`] when the path is something else than a folder, or cannot be made
    /// absolute.
    pub fn at(folder: impl AsRef<Path>) -> Result<Self, StoreError> {
        let folder = Arc::new(Folder::new(folder.as_ref())?);
        Ok(Self { folder, deleting: Arc::default() })
    }

    /// The folder, absolute.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where an archive of that name is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All archives, newest first. One that cannot be read is listed, and says why.
    ///
    /// # Errors
    /// [`StoreError::Folder`] when the folder cannot be read.
    pub async fn list(&self) -> Result<Vec<Stored>, StoreError> {
        self.blocking(|folder| folder.list()).await
    }

    /// One archive.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`], [`StoreError::Io`].
    pub async fn find(&self, name: &str) -> Result<Stored, StoreError> {
        let name = name.to_owned();
        self.blocking(move |folder| folder.find(&name)).await
    }

    /// Opens an archive for reading. While the answer lives nobody deletes the archive: neither
    /// this process nor another that uses a store.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`], [`StoreError::Io`]; [`StoreError::InUse`]
    /// when it is being written or deleted.
    pub async fn open(&self, name: &str) -> Result<Reading, StoreError> {
        let name = name.to_owned();
        self.blocking(move |folder| Folder::read(folder, &name)).await
    }

    /// Deletes an archive.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`], [`StoreError::Io`]; [`StoreError::InUse`]
    /// when it is being read or written, [`StoreError::Pinned`] when it is pinned.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let alone = self.alone().await;
        self.delete_alone(name, &alone).await
    }

    /// Waits until nobody else of this process deletes.
    pub(crate) async fn alone(&self) -> Alone {
        Alone(Arc::clone(&self.deleting).lock_owned().await)
    }

    /// [`Store::delete`] by who has the right to.
    pub(crate) async fn delete_alone(&self, name: &str, _: &Alone) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.blocking(move |folder| folder.delete(&name)).await
    }

    /// The disk the folder is on.
    ///
    /// # Errors
    /// [`StoreError::Folder`].
    pub async fn disk(&self) -> Result<Disk, StoreError> {
        self.blocking(|folder| folder.disk()).await
    }

    /// Pins an archive: it is not deleted until it is unpinned. The answer is whether it was not
    /// pinned before. The pin is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`], [`StoreError::Io`]; [`StoreError::InUse`]
    /// when it is being deleted.
    pub async fn pin(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.blocking(move |folder| folder.pin(&name)).await
    }

    /// Takes an archive's pin away. The answer is whether there was one. It works also when the
    /// archive is gone and only its pin was left.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Missing`] (neither archive nor pin),
    /// [`StoreError::Io`]; [`StoreError::PinnedBy`] when the pin is another program's, which would
    /// only set it again.
    pub async fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let gone = self.blocking(move |folder| folder.unpin(&name)).await?;
        if gone {
            self.folder.released.notify_one();
        }
        Ok(gone)
    }

    /// Says that a runtime writes an archive of that name in place, until the answer is dropped.
    #[must_use]
    pub fn writing(&self, name: &str) -> Writing {
        self.folder.begin_writing(name);
        Writing { folder: Arc::clone(&self.folder), name: name.to_owned() }
    }

    /// Told when a [`Reading`] or a pin ends: what could not be deleted may be now.
    #[must_use]
    pub fn released(&self) -> &Notify {
        &self.folder.released
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Folder>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let folder = Arc::clone(&self.folder);
        match tokio::task::spawn_blocking(move || work(&folder)).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is being shut down cancels; then nobody awaits.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder.path()).finish()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.folder.end_writing(&self.name);
    }
}
