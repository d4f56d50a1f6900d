"""What lies in the store: artifacts, the folders of attempts at jobs, logs of attempts that are over."""
