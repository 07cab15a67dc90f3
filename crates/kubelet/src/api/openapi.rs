//! The OpenAPI 3.1 document, made of the table that requests are routed by, and the kubelet's own
//! route beside it.

use serde_json::{Map, Value, json};

use super::problem::MEDIA_TYPE as PROBLEM;
use super::table::{Content, OPERATIONS, Operation, PREFIX, Parameter, ParameterKind};

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(format!("{PREFIX}{}", operation.path)).or_insert_with(|| {
            let mut item = Map::new();
            if let Some(parameter) = path_parameter(operation.path) {
                item.insert("parameters".to_owned(), json!([parameter]));
            }
            Value::Object(item)
        });
        let method = operation.method.to_lowercase();
        path[&method] = described(operation, false);
        if method == "get" {
            path["head"] = described(operation, true);
        }
    }
    paths.insert("/checkpoint/{podNamespace}/{podID}/{containerName}".to_owned(), checkpoint());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cryopod",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The kubelet's checkpoint endpoint, and what goes beyond it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "clientCertificate": [] }, { "token": [] }],
        "tags": [
            { "name": "kubelet", "description": "As a kubelet answers." },
            { "name": "cryopod", "description": "Beyond the kubelet." },
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "clientCertificate": {
                    "type": "mutualTLS",
                    "description": "A certificate of the node's client CA.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token that the API server knows.",
                },
            },
            "schemas": schemas(),
        },
    })
}

fn described(operation: &Operation, head: bool) -> Value {
    let mut answers = Map::new();
    let mut add = |status: u16, description: &str, content: Content| {
        answers.insert(status.to_string(), answer(status, description, content, head));
    };
    for one in operation.answers {
        // HEAD has no ranges.
        if !(head && matches!(one.status, 206 | 416)) {
            add(one.status, one.description, one.content);
        }
    }
    add(400, "The path, the query or the body cannot be understood.", Content::Problem);
    add(405, "The path has other methods.", Content::Problem);
    let mut answers = with_door(answers, head);
    // Besides the door's own text.
    if let Some(content) = answers["500"].get_mut("content") {
        content[PROBLEM] = json!({ "schema": reference("Problem") });
    }
    let parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|one| parameter(one, "query"))
        .chain(operation.headers.iter().map(header))
        .collect();
    let id = if head { format!("{}Head", operation.id) } else { operation.id.to_owned() };
    let mut description = format!(
        "{} Needs `{}` on `nodes/{}` of this node.",
        operation.description, operation.verb, operation.subresource
    );
    if head {
        description.push_str(" The answer of GET without its body.");
    }
    let mut described = json!({
        "operationId": id,
        "tags": ["cryopod"],
        "summary": operation.summary,
        "description": description.trim(),
        "responses": answers,
    });
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(body) } },
        });
    }
    described
}

/// With what every request can be answered before it is understood.
fn with_door(mut answers: Map<String, Value>, head: bool) -> Value {
    let texts = [
        (401, "The caller is not known."),
        (403, "The caller may not."),
        (431, "The request's header is too large."),
        (500, "The caller's rights could not be looked up, or the node failed."),
    ];
    for (status, description) in texts {
        let mut answer = json!({ "description": description });
        if !head {
            answer["content"] = json!({ "text/plain": { "schema": { "type": "string" } } });
        }
        answers.entry(status.to_string()).or_insert(answer);
    }
    Value::Object(answers)
}

fn answer(status: u16, description: &str, content: Content, head: bool) -> Value {
    let mut answer = json!({ "description": description });
    let media = match content {
        Content::Empty => None,
        Content::Json(schema) => Some(("application/json", reference(schema))),
        Content::Problem => Some((PROBLEM, reference("Problem"))),
        // Of each event, as the readers of this document take it.
        Content::Events => Some(("text/event-stream", reference("Event"))),
        // Bytes: in OpenAPI 3.1 a schema without a type.
        Content::Tar => Some(("application/x-tar", json!({}))),
    };
    if let (Some((media, schema)), false) = (media, head) {
        answer["content"] = json!({ media: { "schema": schema } });
    }
    let text = |description: &str| {
        json!({ "description": description, "required": true,
                                          "schema": { "type": "string" } })
    };
    let mut headers = Map::new();
    if content == Content::Tar {
        headers.insert("ETag".to_owned(), text("Another one for every other content."));
        headers.insert("Accept-Ranges".to_owned(), text("`bytes`."));
        headers.insert("Content-Disposition".to_owned(), text("The name to save it under."));
    }
    if matches!(status, 206 | 416) {
        headers.insert("Content-Range".to_owned(), text("What is given of what there is."));
    }
    if status == 405 {
        headers.insert("Allow".to_owned(), text("The methods."));
    }
    if !headers.is_empty() {
        answer["headers"] = Value::Object(headers);
    }
    let linked = match content {
        Content::Json("ArchiveList") => Some(("{name}", "name")),
        Content::Json("CheckpointList") => Some(("{id}", "id")),
        _ => None,
    };
    if let (Some((segment, name)), false) = (linked, head) {
        answer["links"] = links(segment, name);
    }
    answer
}

/// Where the first of a list leads: every operation that takes it.
fn links(segment: &str, name: &str) -> Value {
    let value = format!("$response.body#/items/0/{name}");
    let mut links: Map<String, Value> = OPERATIONS
        .iter()
        .filter(|operation| operation.path.contains(segment))
        .map(|operation| {
            let link = json!({ "operationId": operation.id, "parameters": { name: value } });
            (operation.id.to_owned(), link)
        })
        .collect();
    if name == "name" {
        let link = json!({ "operationId": "restore", "requestBody": { "archive": value } });
        links.insert("restore".to_owned(), link);
    }
    Value::Object(links)
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameter(parameter: &Parameter, place: &str) -> Value {
    let schema = match parameter.kind {
        ParameterKind::Text => json!({ "type": "string", "minLength": 1 }),
        ParameterKind::Number { least, most } => {
            json!({ "type": "integer", "minimum": least, "maximum": most, "default": most })
        }
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": false,
        "description": parameter.description,
        "schema": schema,
    })
}

/// Any text: what is not understood is as good as none (RFC 9110).
fn header(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": "header",
        "required": false,
        "description": parameter.description,
        "schema": { "type": "string" },
    })
}

/// The parameter of a path's segment in braces.
fn path_parameter(path: &str) -> Option<Value> {
    let name = path.split('/').find_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))?;
    let description = match name {
        "name" => "File name of the archive, as the list tells it.",
        _ => "Id of the checkpoint, as the list tells it.",
    };
    Some(json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": description,
        "schema": { "type": "string", "minLength": 1, "pattern": "^[^/]+$" },
    }))
}

/// The kubelet's route: errors are plain text, and whatever is wrong with a pod is 404 or 500.
fn checkpoint() -> Value {
    let text = |description: &str| {
        json!({
            "description": description,
            "content": { "text/plain": { "schema": { "type": "string" } } },
        })
    };
    let segment = |name: &str, description: &str| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": description,
            "schema": { "type": "string", "minLength": 1, "pattern": "^[^/]+$" },
        })
    };
    let mut answers = Map::new();
    let made = json!({
        "description": "The archive is there.",
        "content": { "application/json": { "schema": reference("Items") } },
    });
    answers.insert("200".to_owned(), made);
    answers.insert("400".to_owned(), text("The path has a broken escape."));
    for status in ["301", "307"] {
        let moved = json!({ "description": "The same path, clean, is there." });
        answers.insert(status.to_owned(), moved);
    }
    answers.insert(
        "404".to_owned(),
        text("There is no such pod or container, or the timeout is no number."),
    );
    answers.insert(
        "405".to_owned(),
        json!({
            "description": "The path takes POST.",
            "headers": { "Allow": { "schema": { "type": "string" }, "required": true } },
            "content": { "text/plain": { "schema": { "type": "string" } } },
        }),
    );
    answers.insert("406".to_owned(), text("The caller accepts no JSON."));
    answers.insert(
        "500".to_owned(),
        text("The checkpoint failed, or the caller's rights could not be looked up."),
    );
    let answers = with_door(answers, false);
    json!({
        "parameters": [
            segment("podNamespace", "The pod's namespace."),
            segment("podID", "The pod's name."),
            segment("containerName", "The container's name."),
        ],
        "post": {
            "operationId": "checkpoint",
            "tags": ["kubelet"],
            "summary": "Take a checkpoint of a running container",
            "description": "The container goes on. Needs `create` on `nodes/checkpoint` of this \
                            node.",
            "parameters": [{
                "name": "timeout",
                "in": "query",
                "required": false,
                "description": "Seconds; what is less than the node's default is the default.",
                "schema": { "type": "integer", "minimum": 0, "maximum": 2_147_483_647 },
            }],
            "responses": answers,
        },
    })
}

fn schemas() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let flag = |description: &str| json!({ "type": "boolean", "description": description });
    let count = |description: &str| {
        json!({ "type": "integer", "minimum": 0,
                                           "description": description })
    };
    let time = |description: &str| {
        json!({ "type": "string", "format": "date-time",
                                          "description": description })
    };
    let name = |description: &str| {
        json!({ "type": "string", "minLength": 1,
                                          "description": description })
    };
    let list = |schema: Value| json!({ "type": "array", "items": schema });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let archive = json!({
        "name": text("Its file name: what the other calls take."),
        "path": text("Its path on the node."),
        "bytes": count("Its size."),
        "diskBytes": count("Bytes of disk that are free once it is deleted."),
        "finishedAt": time("When it was finished."),
        "identity": reference("Identity"),
        "pinned": flag("Whether it is kept from being deleted."),
        "inUse": flag("Whether it is being read."),
        "digest": text("BLAKE3 digest of its table of digests; archives with one digest are equal."),
        "engine": json!({ "enum": ["cryopod", "cri-o", "containerd", "podman"],
                          "description": "Who made it." }),
        "unreadable": text("Why it cannot be read as a checkpoint archive."),
    });
    let required = ["name", "path", "bytes", "diskBytes", "finishedAt", "pinned", "inUse"];
    let mut described = archive.clone();
    described["checkpointedAt"] = text("When it was taken, as the archive has it.");
    described["image"] = text("The container's image.");
    described["memoryBytes"] = count("Bytes of memory pages.");
    described["rootfsBytes"] = count("Bytes of changes to the root filesystem.");
    described["entries"] = list(reference("Entry"));
    described["entriesLeftOut"] = count("Entries that are not listed.");
    described["dump"] = reference("Dump");
    let checkpoint = json!({
        "id": text("Unique while the server runs."),
        "namespace": text("The pod's namespace."),
        "pod": text("The pod's name."),
        "container": text("The container's name."),
        "phase": json!({ "enum": ["waiting", "running", "done", "failed"],
                         "description": "Where it is." }),
        "started": time("When it was asked for."),
        "ended": time("When it ended."),
        "location": text("The archive's path, once it is known where it will be."),
        "estimatedBytes": count("Bytes that the archive is expected to have."),
        "bytesWritten": count("Bytes written so far, where that can be told."),
        "error": text("Why there is no archive."),
    });
    json!({
        "Problem": object(&["type", "title", "status", "detail"], json!({
            "type": text("`about:blank`: the status says what kind of problem it is."),
            "title": text("The status in words."),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": text("What is wrong, where, and the way out."),
        })),
        "Items": object(&["items"], json!({
            "items": { "type": "array", "minItems": 1, "maxItems": 1,
                       "items": { "type": "string" } },
        })),
        "Identity": object(&["namespace", "pod", "container"], json!({
            "namespace": text("The pod's namespace."),
            "pod": text("The pod's name."),
            "container": text("The container's name."),
        })),
        "Archive": object(&required, archive),
        "ArchiveList": object(&["items", "leftOut"], json!({
            "items": list(reference("Archive")),
            "leftOut": count("Archives that fit and are beyond the limit."),
        })),
        "ArchiveDescription": object(&required, described),
        "Entry": object(&["name", "directory", "bytes"], json!({
            "name": text("Its name in the tar."),
            "directory": flag("Whether it is a directory."),
            "bytes": count("Bytes of data."),
        })),
        "Dump": object(&["version", "notes"], json!({
            "version": text("Version of the engine."),
            "tasks": count("Processes."),
            "threads": count("Threads of all of them."),
            "pagesWritten": count("Pages of 4096 bytes."),
            "frozenMicros": count("Microseconds that the container stood still."),
            "memoryMethod": text("How memory was copied."),
            "notes": list(json!({ "type": "string" })),
        })),
        "Checkpoint": object(
            &["id", "namespace", "pod", "container", "phase", "started"],
            checkpoint,
        ),
        "Event": object(&["event", "data"], json!({
            "event": { "enum": ["phase", "bytes"] },
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": { "anyOf": [reference("Checkpoint"), reference("Written")] },
            },
        })),
        "Written": object(&["bytesWritten"], json!({
            "bytesWritten": count("Bytes written so far."),
            "estimatedBytes": count("Bytes that the archive is expected to have."),
        })),
        "CheckpointList": object(&["items"], json!({ "items": list(reference("Checkpoint")) })),
        "RestoreRequest": {
            "type": "object",
            "additionalProperties": false,
            "required": ["archive"],
            "properties": {
                "archive": name("Name of the archive."),
                "namespace": label(63, "In place of the archive's namespace. Cryopod's own runtime takes no \
                                       other."),
                "pod": subdomain("In place of the archive's pod."),
                "container": label(63, "In place of the archive's container."),
            },
        },
        "Restored": object(&["id", "sandboxId", "namespace", "pod", "container"], json!({
            "id": text("The container's id at the runtime."),
            "sandboxId": text("The pod sandbox's id."),
            "namespace": text("The pod's namespace."),
            "pod": text("The pod's name."),
            "container": text("The container's name."),
        })),
        "Document": { "type": "object", "required": ["openapi", "info", "paths"] },
    })
}

fn label(most: u32, description: &str) -> Value {
    json!({
        "type": ["string", "null"],
        "maxLength": most,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "description": description,
    })
}

fn subdomain(description: &str) -> Value {
    json!({
        "type": ["string", "null"],
        "maxLength": 253,
        "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "description": description,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_and_method_is_in_it_and_nothing_else() {
        let document = document();
        let mut found = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                found.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let mut expected = BTreeSet::new();
        for operation in OPERATIONS {
            expected.insert(format!("{} {PREFIX}{}", operation.method, operation.path));
            if operation.method == "GET" {
                expected.insert(format!("HEAD {PREFIX}{}", operation.path));
            }
        }
        expected.insert("POST /checkpoint/{podNamespace}/{podID}/{containerName}".to_owned());
        assert_eq!(found, expected);
    }

    #[test]
    fn references_lead_somewhere_and_every_schema_is_used() {
        fn collect(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        match value {
                            Value::String(target) if key == "$ref" => {
                                found.insert(target.clone());
                            }
                            value => collect(value, found),
                        }
                    }
                }
                Value::Array(all) => all.iter().for_each(|value| collect(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        collect(&document, &mut found);
        let schemas: BTreeSet<String> = document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
            .map(|name| format!("#/components/schemas/{name}"))
            .collect();
        assert_eq!(found, schemas);
    }

    #[test]
    fn operations_are_whole() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(path.starts_with('/'), "{path}");
            let braces: Vec<&str> = path
                .split('/')
                .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            let empty = Vec::new();
            let parameters = item["parameters"].as_array().unwrap_or(&empty);
            let named: Vec<&str> =
                parameters.iter().map(|one| one["name"].as_str().unwrap()).collect();
            assert_eq!(named, braces, "{path}");
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                let what = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{what}: {id} is taken");
                assert!(!operation["summary"].as_str().unwrap().is_empty(), "{what}");
                let answers = operation["responses"].as_object().unwrap();
                for status in ["400", "401", "403", "405", "431", "500"] {
                    assert!(answers.contains_key(status), "{what}: {status}");
                }
                assert!(
                    answers.keys().any(|status| status.starts_with('2')),
                    "{what}: no way to succeed"
                );
                for (status, answer) in answers {
                    assert!(answer["description"].is_string(), "{what}: {status}");
                    assert!(method != "head" || answer["content"].is_null(), "{what}: {status}");
                }
            }
        }
    }
}
