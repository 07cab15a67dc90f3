//! Every route below [`PREFIX`], once: the router, the attributes that authorization decides on and
//! the OpenAPI document are made of this table and cannot differ.

/// Where the routes begin.
pub const PREFIX: &str = "/cryopod/v1";

/// `nodes/checkpointarchives`: what archives there are; deleting and pinning them.
pub const ARCHIVES: &str = "checkpointarchives";
/// `nodes/checkpointcontent`: the bytes of an archive, with every secret of the container's memory.
pub const CONTENT: &str = "checkpointcontent";
/// `nodes/checkpointprogress`: checkpoints under way.
pub const PROGRESS: &str = "checkpointprogress";
/// `nodes/checkpointrestore`: containers that go on from an archive.
pub const RESTORE: &str = "checkpointrestore";

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ListArchives,
    DescribeArchive,
    Download,
    DeleteArchive,
    Pin,
    Unpin,
    ListCheckpoints,
    DescribeCheckpoint,
    Events,
    Restore,
    Document,
}

/// One method of one path.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// `operationId` of the document.
    pub(crate) id: &'static str,
    pub(crate) method: &'static str,
    /// Below [`PREFIX`]; a segment in braces takes any one segment.
    pub(crate) path: &'static str,
    /// The verb that authorization decides on.
    pub(crate) verb: &'static str,
    /// The subresource of `nodes` that it decides on.
    pub(crate) subresource: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) query: &'static [Parameter],
    pub(crate) headers: &'static [Parameter],
    /// Schema of the body it takes.
    pub(crate) body: Option<&'static str>,
    /// Besides those that every operation has.
    pub(crate) answers: &'static [Answer],
}

impl Operation {
    /// Whether somebody will ask later who did it: it changes something, or gives secrets away.
    pub(crate) fn changes_or_reveals(&self) -> bool {
        self.method != "GET" || self.action == Action::Download
    }
}

/// A parameter of the query or a header.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) kind: ParameterKind,
}

/// What a parameter's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    Text,
    /// A whole number within these bounds.
    Number {
        least: u64,
        most: u64,
    },
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) description: &'static str,
    pub(crate) content: Content,
}

/// The body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// None.
    Empty,
    /// `application/json` of that schema.
    Json(&'static str),
    /// `application/problem+json`.
    Problem,
    /// `text/event-stream`.
    Events,
    /// `application/x-tar`, whole or a part.
    Tar,
}

/// Archives that one list holds at most.
pub(crate) const MOST_LISTED: u64 = 1000;

const fn text(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, description, kind: ParameterKind::Text }
}

const fn ok(description: &'static str, schema: &'static str) -> Answer {
    Answer { status: 200, description, content: Content::Json(schema) }
}

const fn problem(status: u16, description: &'static str) -> Answer {
    Answer { status, description, content: Content::Problem }
}

const IN_USE: Answer = problem(409, "It is being written, read or deleted.");
const NO_ARCHIVE: Answer = problem(404, "There is no archive of that name.");
const NO_CHECKPOINT: Answer =
    problem(404, "No checkpoint of that id is under way or ended a short while ago.");

/// The table.
pub(crate) static OPERATIONS: &[Operation] = &[
    Operation {
        action: Action::ListArchives,
        id: "listArchives",
        method: "GET",
        path: "/archives",
        verb: "list",
        subresource: ARCHIVES,
        summary: "List the node's checkpoint archives",
        description: "Newest first. Whose an archive is, is read from inside it.",
        query: &[
            text("namespace", "Only archives of pods of this namespace."),
            text("pod", "Only archives of pods of this name."),
            text("container", "Only archives of containers of this name."),
            Parameter {
                name: "limit",
                description: "At most so many; the answer tells how many were left out.",
                kind: ParameterKind::Number { least: 1, most: MOST_LISTED },
            },
        ],
        headers: &[],
        body: None,
        answers: &[ok("The archives.", "ArchiveList")],
    },
    Operation {
        action: Action::DescribeArchive,
        id: "describeArchive",
        method: "GET",
        path: "/archives/{name}",
        verb: "get",
        subresource: ARCHIVES,
        summary: "Describe an archive",
        description: "With its entries, and what the engine noted when it was made.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[ok("The archive.", "ArchiveDescription"), NO_ARCHIVE, IN_USE],
    },
    Operation {
        action: Action::DeleteArchive,
        id: "deleteArchive",
        method: "DELETE",
        path: "/archives/{name}",
        verb: "delete",
        subresource: ARCHIVES,
        summary: "Delete an archive",
        description: "Refused while it is pinned, read or restored from.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[
            Answer { status: 204, description: "It is gone.", content: Content::Empty },
            NO_ARCHIVE,
            problem(409, "It is pinned, or somebody reads it."),
        ],
    },
    Operation {
        action: Action::Download,
        id: "downloadArchive",
        method: "GET",
        path: "/archives/{name}/content",
        verb: "get",
        subresource: CONTENT,
        summary: "Download an archive",
        description: "The archive holds everything that the container's memory held: keys, tokens \
                      and passwords too. One range of bytes can be asked for (RFC 9110), so that a \
                      broken download goes on where it broke; several are answered with the whole.",
        query: &[],
        headers: &[
            text("Range", "`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`."),
            text(
                "If-Range",
                "The range is only given if the archive is still the one of this tag.",
            ),
            text("If-None-Match", "Answered with 304 if the archive is still the one of this tag."),
        ],
        body: None,
        answers: &[
            Answer { status: 200, description: "The archive, whole.", content: Content::Tar },
            Answer { status: 206, description: "The range asked for.", content: Content::Tar },
            Answer {
                status: 304,
                description: "It is the archive of that tag.",
                content: Content::Empty,
            },
            NO_ARCHIVE,
            IN_USE,
            problem(416, "The archive ends before the range."),
        ],
    },
    Operation {
        action: Action::Pin,
        id: "pinArchive",
        method: "PUT",
        path: "/archives/{name}/pin",
        verb: "update",
        subresource: ARCHIVES,
        summary: "Pin an archive",
        description: "A pinned archive is deleted by nobody. It still counts for the limits.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[
            Answer { status: 204, description: "It is pinned.", content: Content::Empty },
            NO_ARCHIVE,
            IN_USE,
        ],
    },
    Operation {
        action: Action::Unpin,
        id: "unpinArchive",
        method: "DELETE",
        path: "/archives/{name}/pin",
        verb: "update",
        subresource: ARCHIVES,
        summary: "Let go of a pinned archive",
        description: "It can then be deleted, also by the node's retention.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[
            Answer { status: 204, description: "It is not pinned.", content: Content::Empty },
            NO_ARCHIVE,
            problem(409, "Another program keeps the pin, and would set it again."),
        ],
    },
    Operation {
        action: Action::ListCheckpoints,
        id: "listCheckpoints",
        method: "GET",
        path: "/checkpoints",
        verb: "list",
        subresource: PROGRESS,
        summary: "List checkpoints under way",
        description: "And those that ended a short while ago.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[ok("The checkpoints.", "CheckpointList")],
    },
    Operation {
        action: Action::DescribeCheckpoint,
        id: "describeCheckpoint",
        method: "GET",
        path: "/checkpoints/{id}",
        verb: "get",
        subresource: PROGRESS,
        summary: "Tell how far a checkpoint is",
        description: "",
        query: &[],
        headers: &[],
        body: None,
        answers: &[ok("The checkpoint.", "Checkpoint"), NO_CHECKPOINT],
    },
    Operation {
        action: Action::Events,
        id: "watchCheckpoint",
        method: "GET",
        path: "/checkpoints/{id}/events",
        verb: "get",
        subresource: PROGRESS,
        summary: "Watch a checkpoint to its end",
        description: "Server-sent events. `phase` with a Checkpoint at the beginning and at each \
                      change; `bytes` with what is written, once a second while the runtime works; \
                      the phase `done` or `failed` is the last event, and the answer ends. Lines \
                      that begin with a colon keep the connection alive.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[
            Answer { status: 200, description: "The events.", content: Content::Events },
            NO_CHECKPOINT,
        ],
    },
    Operation {
        action: Action::Restore,
        id: "restore",
        method: "POST",
        path: "/restore",
        verb: "create",
        subresource: RESTORE,
        summary: "Let a container go on from an archive of this node",
        description: "In the pod that is there, or in a new one with a private network. Limits, a \
                      read-only root and the host name come from the archive; nothing of the host \
                      is shown to the container. On failure, and when the client hangs up, \
                      everything made is removed.",
        query: &[],
        headers: &[],
        body: Some("RestoreRequest"),
        answers: &[
            Answer {
                status: 201,
                description: "The container runs.",
                content: Content::Json("Restored"),
            },
            NO_ARCHIVE,
            problem(409, "It runs already, or the pod or the node, as it is, cannot take it."),
            problem(413, "The body is too large."),
            problem(415, "The body is not `application/json`."),
            problem(422, "The archive does not say what is needed, or cannot be restored."),
            problem(501, "The node's runtime cannot restore."),
            problem(502, "The node's runtime failed."),
            problem(503, "The node's runtime does not answer."),
            problem(504, "The node's runtime took too long."),
        ],
    },
    Operation {
        action: Action::Document,
        id: "openapi",
        method: "GET",
        path: "/openapi.json",
        verb: "get",
        subresource: PROGRESS,
        summary: "This document",
        description: "",
        query: &[],
        headers: &[],
        body: None,
        answers: &[ok("The document.", "Document")],
    },
];

/// What a caller must be allowed to do: pairs of a verb and a subresource of `nodes`, each once, in
/// the table's order. A ClusterRole with all of them is the whole API.
pub fn rules() -> Vec<(&'static str, &'static str)> {
    let mut rules = Vec::new();
    for operation in OPERATIONS {
        let rule = (operation.verb, operation.subresource);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_the_roles_are_written_with() {
        let expected = [
            ("list", ARCHIVES),
            ("get", ARCHIVES),
            ("delete", ARCHIVES),
            ("get", CONTENT),
            ("update", ARCHIVES),
            ("list", PROGRESS),
            ("get", PROGRESS),
            ("create", RESTORE),
        ];
        assert_eq!(rules(), expected);
        let names = [ARCHIVES, CONTENT, PROGRESS, RESTORE];
        let written =
            ["checkpointarchives", "checkpointcontent", "checkpointprogress", "checkpointrestore"];
        assert_eq!(names, written);
    }
}
