//! grpc.health.v1.Health/Check, over plain HTTP/2. Driven by `handlers`, which bounds the time.

use std::net::{IpAddr, SocketAddr};

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::handlers::Answer;
use super::http::VERSION;

/// grpc/health/v1/health.proto.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The answer has two bytes; a server may add fields that we do not know.
const ANSWER_BYTES_MAX: usize = 4 << 10;

pub async fn check(address: IpAddr, port: u16, service: &str) -> Answer {
    let place = SocketAddr::new(address, port);
    let failed = |why: String| Answer::Failure(why);
    let endpoint =
        Endpoint::from_shared(format!("http://{place}")).map(|it| it.user_agent(format!("kube-probe/{VERSION}")));
    let endpoint = match endpoint {
        Ok(Ok(endpoint)) => endpoint,
        Ok(Err(why)) | Err(why) => return failed(format!("error: {place} is no address: {why}")),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(why) => {
            return failed(format!("error: failed to connect service {:?}: {}", place.to_string(), causes(&why)));
        }
    };
    let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    if let Err(why) = client.ready().await {
        return failed(format!("error: failed to connect service {:?}: {}", place.to_string(), causes(&why)));
    }
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, PathAndQuery::from_static(CHECK), codec).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Answer::Success,
            other => failed(format!("service unhealthy (responded with {:?})", word(other))),
        },
        Err(status) if status.code() == Code::Unimplemented => {
            failed("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        Err(status) if status.code() == Code::NotFound => {
            failed(format!("error: the server knows no service {service:?}: {}", status.message()))
        }
        Err(status) => failed(format!("error: health rpc probe failed: {}: {}", status.code(), status.message())),
    }
}

fn word(status: ServingStatus) -> &'static str {
    match status {
        ServingStatus::Unknown => "UNKNOWN",
        ServingStatus::Serving => "SERVING",
        ServingStatus::NotServing => "NOT_SERVING",
        ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    crate::execute::chain(error)
}
