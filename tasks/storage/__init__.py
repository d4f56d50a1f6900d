"""The store's contents: artifacts, the folders of attempts at jobs, logs of finished attempts."""
