//! Does one step, exactly as planned: no policy. Driven by a worker; acts only through the seams.

use std::net::IpAddr;

use pod::desired::DesiredPod;
use pod::name::{RunKey, Uid, WorkloadKey};
use pod::plan::Signal;
use pod::record::Record;
use pod::spec::PodTemplate;

use crate::gate::Gate;
use crate::records::Records;
use crate::seams::{CreateRun, LogPipes, Machine, Runtime, Sandboxes, StepError};

/// An admitted pod with its template read back.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub record: Record,
    pub template: PodTemplate,
}

/// A step together with everything that it needs: owned, so that it outlives the worker's next look.
#[derive(Debug)]
pub enum Job {
    Admit { wanted: Box<DesiredPod>, record: Box<Record> },
    Save { record: Box<Record> },
    PrepareImage { pod: Admitted, container: usize },
    SetUp { pod: Admitted },
    Connect { pod: Admitted },
    Create { pod: Admitted, container: usize, attempt: u32 },
    Start { run: RunKey },
    Signal { run: RunKey, signal: Signal },
    Delete { run: RunKey },
    TearDown { uid: Uid },
    Forget { record: Box<Record> },
}

/// What a job that succeeded has changed, for the worker's view.
#[derive(Debug)]
pub enum Outcome {
    Admitted { wanted: Box<DesiredPod>, record: Box<Record> },
    Saved { record: Box<Record> },
    ImageReady { uid: Uid, container: String },
    SetUp { uid: Uid },
    Connected { uid: Uid, ips: Vec<IpAddr> },
    Created { run: RunKey, image_id: String },
    Started { run: RunKey, pid: u32 },
    Signalled { run: RunKey, signal: Signal },
    Deleted { run: RunKey },
    TornDown { uid: Uid },
    Forgotten { uid: Uid },
}

/// Runs the job to its end.
pub async fn execute<M: Machine>(
    machine: &M,
    records: &Records,
    gate: &Gate,
    workload: &WorkloadKey,
    job: Job,
) -> Result<Outcome, StepError> {
    match job {
        Job::Admit { wanted, record } => {
            save(machine, records, &record).await?;
            Ok(Outcome::Admitted { wanted, record })
        }
        Job::Save { record } => {
            save(machine, records, &record).await?;
            Ok(Outcome::Saved { record })
        }
        Job::PrepareImage { pod, container } => {
            let container = &pod.template.spec.containers[container];
            machine.runtime().prepare_image(container).await?;
            Ok(Outcome::ImageReady { uid: pod.record.uid, container: container.name.clone() })
        }
        Job::SetUp { pod } => {
            machine.sandboxes().set_up(&pod.record, &pod.template).await?;
            Ok(Outcome::SetUp { uid: pod.record.uid })
        }
        Job::Connect { pod } => {
            let _permit = gate.enter(pod.template.spec.priority).await;
            let ips = machine.sandboxes().connect(&pod.record, &pod.template).await?;
            Ok(Outcome::Connected { uid: pod.record.uid, ips })
        }
        Job::Create { pod, container, attempt } => create(machine, gate, workload, &pod, container, attempt).await,
        Job::Start { run } => {
            let pid = machine.runtime().start(&run.container_id()).await?;
            Ok(Outcome::Started { run, pid })
        }
        Job::Signal { run, signal } => {
            machine.runtime().signal(&run.container_id(), signal).await?;
            Ok(Outcome::Signalled { run, signal })
        }
        Job::Delete { run } => {
            let id = run.container_id();
            machine.runtime().delete(&id).await?;
            // Only now have all writers closed, so that the keeper reads to the end.
            machine.logs().close(&id).await?;
            Ok(Outcome::Deleted { run })
        }
        Job::TearDown { uid } => {
            machine.sandboxes().tear_down(&uid).await?;
            Ok(Outcome::TornDown { uid })
        }
        Job::Forget { record } => {
            machine.logs().forget(&record).await?;
            records
                .remove(machine.files(), &record.uid)
                .await
                .map_err(|e| StepError::new("FailedRecord", chain(&e)))?;
            Ok(Outcome::Forgotten { uid: record.uid })
        }
    }
}

async fn save<M: Machine>(machine: &M, records: &Records, record: &Record) -> Result<(), StepError> {
    records.save(machine.files(), record).await.map_err(|e| StepError::new("FailedRecord", chain(&e)))
}

async fn create<M: Machine>(
    machine: &M,
    gate: &Gate,
    workload: &WorkloadKey,
    pod: &Admitted,
    container: usize,
    attempt: u32,
) -> Result<Outcome, StepError> {
    let _permit = gate.enter(pod.template.spec.priority).await;
    let container = &pod.template.spec.containers[container];
    let run = RunKey { uid: pod.record.uid.clone(), container: container.name.clone(), attempt };
    let sandbox = machine.sandboxes().describe(&pod.record, &pod.template).await?;
    let (stdout, stderr) = machine.logs().open(&pod.record, &run).await?;
    let create = CreateRun {
        run: run.clone(),
        workload,
        record: &pod.record,
        template: &pod.template,
        container,
        sandbox: &sandbox,
        stdout,
        stderr,
    };
    let image_id = machine.runtime().create(&create).await?;
    Ok(Outcome::Created { run, image_id })
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}
