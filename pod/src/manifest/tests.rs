use super::*;

const SEED_RANDOM: &str = "\
# DaemonSet resource
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: random-refresher
spec:
  selector:
    matchLabels:
      app: random-refresher
  template:
    metadata:
      labels:
        app: random-refresher
    spec:
      # Also run on the the master even it's tainted
      tolerations:
      - key: node-role.kubernetes.io/master
        operator: Exists
      containers:
      - image: k8spatterns/random-generator:1.0
        name: random-generator
        command:
        - sh
        - -c
        - >-
          while true; do
            java RandomRunner /host_dev/random 100000;
            sleep 30;
          done
        volumeMounts:
        - mountPath: /host_dev
          name: devices
      volumes:
      # Expose devices into this daemon set
      - name: devices
        hostPath:
          path: /dev
";

const SEED_FLUENTD: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: fluentd-elasticsearch
  namespace: kube-system      # [1]
  labels:
    k8s-app: fluentd-logging  # [2]
spec:
  selector:
    matchLabels:
      name: fluentd-elasticsearch
  updateStrategy:
    type: RollingUpdate       # [3]
  template:
    metadata:
      labels:
        name: fluentd-elasticsearch
    spec:
      containers:
      - name: fluentd-elasticsearch
        image: fluent/fluentd-kubernetes-daemonset:elasticsearch  # [4]
        env:
        - name: testenv
          value: value
        resources:
          limits:
            memory: 200Mi
          requests:
            cpu:  100m
            memory: 200Mi
";

#[test]
fn seeds_are_taken_unchanged() {
    for seed in [SEED_RANDOM, SEED_FLUENTD] {
        let parsed = parse("seed.yaml", seed.as_bytes(), &Context::default());
        assert!(parsed.is_accepted(), "{:?}", parsed.rejections().collect::<Vec<_>>());
        assert_eq!(parsed.documents.len(), 1);
        assert_eq!(parsed.documents[0].no_effect, []);
    }
}
