//! Traces of `serve`, as a collector of OpenTelemetry gets them.

use std::sync::{Arc, Mutex};

use http::Request;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};

use crate::containers::{counting, last_count};
use crate::door::Door;
use crate::harness::{cryopod, stderr, wait_for};

/// Keeps every span it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(spans.flat_map(|of| of.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_trace_from_its_caller_to_the_runtime() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );

    let mut door = Door::open(&["--otlp-endpoint", &endpoint]);
    counting(&door.node, "counter");
    wait_for("some numbers", || (last_count(&door.node, "counter") > 3).then_some(()));
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = Request::post("/checkpoint/default/counter/counter");
    let answer = door.send(request.header("traceparent", format!("00-{trace}-{parent}-01"))).await;
    assert_eq!(answer.status(), 200, "{}", answer.body());
    // A caller that does not want its request traced is heard.
    let silent = "11111111111111111111111111111111";
    let request = Request::post("/checkpoint/default/nopod/x");
    door.send(request.header("traceparent", format!("00-{silent}-{parent}-00"))).await;
    // At the end, what is left is sent.
    assert!(door.node.end_server(Signal::TERM).success(), "{}", door.node.log());

    let spans = collector.0.lock().unwrap().clone();
    assert!(spans.iter().all(|span| hex(&span.trace_id) != silent));
    let ours: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == trace).collect();
    let find = |name: &str| -> &Span {
        let names: Vec<&str> = ours.iter().map(|span| &*span.name).collect();
        ours.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {names:?}"))
    };
    let request = find("POST /checkpoint/{podNamespace}/{podID}/{containerName}");
    assert_eq!(hex(&request.parent_span_id), parent);
    for name in ["authentication", "authorization", "lookup", "CheckpointContainer"] {
        assert_eq!(find(name).parent_span_id, request.span_id, "{name}");
    }
    for name in ["ListPodSandbox", "ListContainers"] {
        assert_eq!(find(name).parent_span_id, find("lookup").span_id, "{name}");
    }
    // On the other side of the CRI.
    let runtime = find("runtime.v1.RuntimeService/CheckpointContainer");
    assert_eq!(runtime.parent_span_id, find("CheckpointContainer").span_id);
    // Nothing of the exporter's own connection.
    assert!(spans.iter().all(|span| !span.name.contains("Export")), "{spans:?}");
}

#[test]
fn a_collector_that_is_gone_costs_nothing_but_a_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    let mut door = Door::open(&["--otlp-endpoint", &endpoint]);
    assert!(door.node.end_server(Signal::TERM).success(), "{}", door.node.log());
}

#[test]
fn a_collector_behind_tls_is_refused_with_the_way_out() {
    let output = cryopod(["serve", "--otlp-endpoint", "https://collector:4317"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("name a collector on this node"), "{}", stderr(&output));
}
