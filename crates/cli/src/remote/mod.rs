//! Nodes far away: the commands over a node's HTTPS API in place of its socket.

mod args;
mod checkpoint;
mod client;
mod download;
mod events;

pub(crate) use args::{
    DeleteArgs, DescribeArgs, DownloadArgs, Kubectl, KubectlArgs, PLUGIN, ServerArgs,
};
pub(crate) use checkpoint::{Wanted, take};
pub(crate) use client::{Remote, RemoteError, segment};
pub(crate) use download::download;
