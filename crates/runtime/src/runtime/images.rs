//! Operations on images.

use super::stats::folder_usage;
use super::{Result, Runtime};
use crate::error::RuntimeError;
use crate::image::{HOST_ID, ImageInfo, ImageSource, ImageStoreUsage};
use crate::status::ContainerFilter;

impl Runtime {
    /// Takes an image into the store under the given name (`name:tag`; `None`: the one it carries).
    ///
    /// # Errors
    /// An error of the image; nothing is left then.
    pub fn import_image(&self, source: &ImageSource, name: Option<&str>) -> Result<ImageInfo> {
        Ok(self.store().import(source, name)?.info)
    }

    /// All images.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list_images(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.store().list()?.into_iter().map(|i| i.info).collect())
    }

    /// One image by id, beginning of an id, digest or name; `None`: not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn image_status(&self, reference: &str) -> Result<Option<ImageInfo>> {
        Ok(self.store().find(reference)?.map(|i| i.info))
    }

    /// Removes an image; not there: no error. The host's own programs stay.
    ///
    /// # Errors
    /// [`RuntimeError::State`] while a container uses it.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        let Some(image) = self.store().find(reference)? else { return Ok(()) };
        let id = image.info.id;
        if id == HOST_ID {
            return Ok(());
        }
        let users = self.list_containers(&ContainerFilter::default())?;
        if let Some(user) = users.into_iter().find(|c| c.image_id == id) {
            return Err(RuntimeError::State {
                what: "image",
                id,
                state: "in use".into(),
                reason: format!("container {} is made from it", user.id),
            });
        }
        self.store().remove(&id)
    }

    /// Disk used by the image store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn image_fs_info(&self) -> Result<ImageStoreUsage> {
        let usage = folder_usage(&self.layout.images());
        Ok(ImageStoreUsage {
            mountpoint: usage.mountpoint,
            used_bytes: usage.used_bytes,
            inodes_used: usage.inodes_used,
            timestamp: usage.timestamp,
        })
    }
}
