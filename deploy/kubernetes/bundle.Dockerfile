# A model bundle as an image, for the init container of deployment.yaml; the folder of the bundle is the context:
#   docker build -t registry.example.com/clipseek-bundle:1.0.0 -f deploy/kubernetes/bundle.Dockerfile bundles/default
FROM busybox:1.37.0
COPY . /bundle
USER 10001:10001
